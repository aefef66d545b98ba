"""The attention of one block of query rows of one example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mta_jax.ops.dropout import dropout
from mta_jax.ops.head_mixing import head_mixing
from mta_jax.ops.multi_token_attention.xla_chunked.convolution import block_convolution
from mta_jax.ops.multi_token_attention.xla_chunked.products import product
from mta_jax.typing import Array, Bool, DropoutKey, DTypeLike, Float, Int, KeyPadding


class Inputs(NamedTuple):
    """Everything with a gradient, in the dtype of the sums, heads first.

    Keys and values are the columns of matrices, since XLA's CPU compiler is slow in
    products whose result has short rows, as their gradients would have.
    """

    query: Float[Array, "N R H"]
    key: Float[Array, "K H S"]
    value: Float[Array, "K Hv S"]
    pre_kq_kernel: Float[Array, "N Cq Ck"] | None
    pre_head_kernel: Float[Array, "M Ch Ch"] | None
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None
    scale: Float[Array, ""]


class Options(NamedTuple):
    """What is fixed when a program is traced."""

    key_padding: KeyPadding
    dropout_rate: float
    dtype: DTypeLike


def halo(kq_kernel: Array | None) -> int:
    """Rows before its own that a convolution reaches."""
    return 0 if kq_kernel is None else kq_kernel.shape[1] - 1


def attend_row_block(
    inputs: Inputs,
    allowed: Bool[Array, "#N R S"],
    segment_ids: Int[Array, "R"] | None,
    dropout_key: DropoutKey | None,
    options: Options,
) -> Float[Array, "N Rout Hv"]:
    """Multi-token attention of the last rows of `query`; the halo comes before them.

    Args:
      inputs: the rows, all their keys and values, and the kernels.
      allowed: true where a query may attend. Rows before the first are all false.
      segment_ids: document of each row.
      dropout_key: random key of this block.
      options: see there.
    """
    num_heads, num_rows, _ = inputs.query.shape
    num_kv_heads, _, num_keys = inputs.key.shape

    grouped = inputs.query.reshape(num_kv_heads, -1, *inputs.query.shape[1:])
    logits = product("KGTH,KHS->KGTS", options.dtype, grouped, inputs.key)
    logits = inputs.scale * logits.reshape(num_heads, num_rows, num_keys)
    if inputs.pre_kq_kernel is not None or inputs.pre_head_kernel is not None:
        logits = jnp.where(allowed, logits, 0)
    logits, allowed, segment_ids = _convolved(
        logits, inputs.pre_kq_kernel, allowed, segment_ids, options
    )
    if inputs.pre_head_kernel is not None:
        logits = head_mixing(logits[None], inputs.pre_head_kernel)[0]

    probs = _masked_softmax(logits, allowed)
    if inputs.post_kq_kernel is not None:
        probs, allowed, _ = _convolved(probs, inputs.post_kq_kernel, allowed, segment_ids, options)
        probs = jnp.where(allowed, probs, 0)
    if inputs.post_head_kernel is not None:
        probs = head_mixing(probs[None], inputs.post_head_kernel)[0]
    if dropout_key is not None:
        probs = dropout(probs, options.dropout_rate, dropout_key)

    grouped = probs.reshape(num_kv_heads, -1, *probs.shape[1:])
    out = product("KGTS,KHS->KGTH", options.dtype, grouped, inputs.value)
    return out.reshape(num_heads, *out.shape[2:])


def _convolved(
    maps: Array,
    kq_kernel: Array | None,
    allowed: Array,
    segment_ids: Array | None,
    options: Options,
) -> tuple[Array, Array, Array | None]:
    """The convolved map, and what is said about its rows without those of the halo."""
    if kq_kernel is None:
        return maps, allowed, segment_ids
    before = halo(kq_kernel)
    row_taps = None
    if segment_ids is not None:
        num_out = maps.shape[1] - before
        sources = jnp.arange(before + 1)[:, None] + jnp.arange(num_out)
        row_taps = segment_ids[sources] == segment_ids[before:]
        segment_ids = segment_ids[before:]
    maps = block_convolution(maps, kq_kernel, options.key_padding, row_taps)
    return maps, allowed[:, before:], segment_ids


@jax.custom_vjp
def _masked_softmax(logits: Array, allowed: Array) -> Array:
    """Softmax over allowed keys; a row without any gives zeros."""
    largest = jnp.max(logits, axis=-1, keepdims=True, where=allowed, initial=-jnp.inf)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    unnormalized = jnp.where(allowed, jnp.exp(jnp.where(allowed, logits - largest, 0)), 0)
    total = jnp.sum(unnormalized, axis=-1, keepdims=True)
    return unnormalized / jnp.where(total == 0, 1, total)


def _softmax_forward(logits: Array, allowed: Array) -> tuple[Array, Array]:
    probs = _masked_softmax(logits, allowed)
    return probs, probs


def _softmax_backward(probs: Array, dprobs: Array) -> tuple[Array, None]:
    return probs * (dprobs - jnp.sum(probs * dprobs, axis=-1, keepdims=True)), None


_masked_softmax.defvjp(_softmax_forward, _softmax_backward)
