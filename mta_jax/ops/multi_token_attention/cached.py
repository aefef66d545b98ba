"""Multi-token attention of a few new queries to the keys and values of a cache."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.ops.multi_token_attention.xla_chunked.row_block import (
    Inputs,
    Options,
    attend_row_block,
    halo,
)
from mta_jax.typing import Array, Bool, DTypeLike, Float, Int, KeyPadding

# More new queries than these are taken block by block, so that their map stays small.
_BLOCK_ROWS = 256


def num_past_queries(pre_kq_kernel: Array | None, post_kq_kernel: Array | None) -> int:
    """R: how many queries before a row its output depends on.

    Its weights are convolved from rows back to Cq2 - 1 before it, and their logits from
    rows back to Cq - 1 before them.

    Example:
      >>> kernel = jnp.zeros((8, 6, 11))  # the paper's size, for 8 heads
      >>> num_past_queries(kernel, kernel)
      10
      >>> num_past_queries(kernel, None)
      5
    """
    return halo(pre_kq_kernel) + halo(post_kq_kernel)


def cached_multi_token_attention(
    query: Float[Array, "B T N H"],
    past_query: Float[Array, "B R N H"],
    key: Float[Array, "B K H S"],
    value: Float[Array, "B K S Hv"],
    *,
    starts: Int[Array, "B"],
    pre_kq_kernel: Float[Array, "N Cq Ck"] | None = None,
    pre_head_kernel: Float[Array, "M Ch Ch"] | None = None,
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None = None,
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None = None,
    scale: float | Float[Array, ""] | None = None,
    key_padding: KeyPadding = "both",
    window: int | None = None,
    out_dtype: DTypeLike | None = None,
) -> Float[Array, "B T N Hv"]:
    """The rows of causal `multi_token_attention` that belong to new queries.

    Exact: the rows that kernels reach before the new ones are computed again from
    `past_query`, so that what a step costs grows with the keys alone.

    Args:
      query: new queries; query t of sequence b stands at ``starts[b] + t``.
      past_query: the `num_past_queries` before them. Those before the first position
        of a sequence may be anything.
      key: keys by position, those of the new queries included, as columns, and values as
        rows: products with few queries are fast so. A query reads nothing after its position.
      value: values by position.
      starts: position of the first new query of each sequence.
      pre_kq_kernel: see `multi_token_attention`, as for the next five.
      pre_head_kernel: see there.
      post_kq_kernel: see there.
      post_head_kernel: see there.
      scale: see there.
      key_padding: see there.
      window: keys that a query sees, itself included; None: all before it.
      out_dtype: dtype of the output; default: that of `value`.

    Returns:
      The output of the new queries.

    Raises:
      ValueError: where `past_query` has not as many queries as the kernels reach.
    """
    reach = num_past_queries(pre_kq_kernel, post_kq_kernel)
    if past_query.shape[1] != reach:
        raise ValueError(
            f"past_query has shape {past_query.shape}: expected {reach} queries, as many as the "
            "kernels reach back"
        )
    accumulate = jnp.promote_types(query.dtype, jnp.float32)

    def kernel(x: Array | None) -> Array | None:
        return None if x is None else x.astype(accumulate)

    inputs = Inputs(
        query=jnp.concatenate([past_query.astype(query.dtype), query], axis=1)
        .astype(accumulate)
        .transpose(0, 2, 1, 3),
        key=key,
        value=value.swapaxes(2, 3),
        pre_kq_kernel=kernel(pre_kq_kernel),
        pre_head_kernel=kernel(pre_head_kernel),
        post_kq_kernel=kernel(post_kq_kernel),
        post_head_kernel=kernel(post_head_kernel),
        scale=jnp.asarray(query.shape[-1] ** -0.5 if scale is None else scale, accumulate),
    )
    options = Options(key_padding=key_padding, dropout_rate=0.0, dtype=query.dtype)
    attend = functools.partial(_attend, first_rows=starts - reach, window=window, options=options)
    out = _by_blocks(attend, inputs, reach)
    return out.transpose(0, 2, 1, 3).astype(value.dtype if out_dtype is None else out_dtype)


def _attend(
    inputs: Inputs,
    row: int | Int[Array, ""],
    *,
    first_rows: Int[Array, "B"],
    window: int | None,
    options: Options,
) -> Float[Array, "B N Rout Hv"]:
    """The attention of consecutive rows of all sequences; `row` is the first of them."""
    allowed = _allowed(first_rows + row, inputs.query.shape[2], inputs.key.shape[3], window)

    def attend(query: Array, key: Array, value: Array, allowed: Array) -> Array:
        example = inputs._replace(query=query, key=key, value=value)
        return attend_row_block(example, allowed, None, None, options)

    return jax.vmap(attend)(inputs.query, inputs.key, inputs.value, allowed)


def _allowed(
    first_rows: Int[Array, "B"], num_rows: int, num_keys: int, window: int | None
) -> Bool[Array, "B 1 R S"]:
    """Which key each row may use: none before a sequence's first position has any."""
    rows = (first_rows[:, None] + jnp.arange(num_rows))[:, :, None]
    keys = jnp.arange(num_keys)
    allowed = keys <= rows
    if window is not None:
        allowed &= keys > rows - window
    return allowed[:, None]


def _by_blocks(attend: Callable[[Inputs, Any], Array], inputs: Inputs, reach: int) -> Array:
    """`attend` of all rows, of many of them block by block."""
    length = inputs.query.shape[2] - reach
    if length <= _BLOCK_ROWS:
        return attend(inputs, 0)
    num_blocks = -(-length // _BLOCK_ROWS)
    extra = num_blocks * _BLOCK_ROWS - length
    query = jnp.pad(inputs.query, ((0, 0), (0, 0), (0, extra), (0, 0)))

    def block(row: Int[Array, ""]) -> Array:
        rows = lax.dynamic_slice_in_dim(query, row, _BLOCK_ROWS + reach, axis=2)
        return attend(inputs._replace(query=rows), row)

    blocks = lax.map(block, jnp.arange(num_blocks) * _BLOCK_ROWS)  # [blocks, B, N, rows, Hv]
    batch, num_heads, _, size = blocks.shape[1:]
    out = blocks.transpose(1, 2, 0, 3, 4).reshape(batch, num_heads, -1, size)
    return out[:, :, :length]
