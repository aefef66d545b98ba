"""Differential attention (Ye et al., https://arxiv.org/abs/2410.05258)."""

from typing import Any

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention import (
    cached_multi_token_attention,
    multi_token_attention,
    multi_token_attention_weights,
)
from mta_jax.typing import Array, Float, Int


def differential_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S Kv Hv"],
    lam: float | Float[Array, ""],
    **options: Any,
) -> Float[Array, "B T Nv Hv"]:
    """The difference of two attention maps applied to shared values.

    Heads 2p and 2p + 1 of query and key form pair p, so Nv = N / 2, Kv = K / 2 and::

        out[p] = (softmax(q[2p] k[2p].T) - lam * softmax(q[2p+1] k[2p+1].T)) @ v[p]

    Args:
      query: N query heads.
      key: K key heads.
      value: one value head per pair of key heads.
      lam: weight of the subtracted map.
      **options: passed to `multi_token_attention`. A `dropout_key` drops the same
        entries of both maps, which is dropout on their difference.

    Raises:
      ValueError: where heads do not pair up.
    """
    _check_pairs(query, key)
    # The maps are close and so are their outputs: rounded first, little would be left of
    # the difference, and of the gradient of lam.
    options["out_dtype"] = jnp.promote_types(value.dtype, jnp.float32)
    first = multi_token_attention(query[:, :, 0::2], key[:, :, 0::2], value, **options)
    second = multi_token_attention(query[:, :, 1::2], key[:, :, 1::2], value, **options)
    return (first - lam * second).astype(value.dtype)


def differential_attention_weights(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    lam: float | Float[Array, ""],
    **options: Any,
) -> Float[Array, "B Nv T S"]:
    """The difference of the two maps of each pair; arguments as in `differential_attention`."""
    _check_pairs(query, key)
    first = multi_token_attention_weights(query[:, :, 0::2], key[:, :, 0::2], **options)
    second = multi_token_attention_weights(query[:, :, 1::2], key[:, :, 1::2], **options)
    return first - lam * second


def cached_differential_attention(
    query: Float[Array, "B T N H"],
    first_key: Float[Array, "B Kv H S"],
    second_key: Float[Array, "B Kv H S"],
    value: Float[Array, "B Kv S Hv"],
    lam: float | Float[Array, ""],
    *,
    starts: Int[Array, "B"],
    window: int | None = None,
) -> Float[Array, "B T Nv Hv"]:
    """The rows of causal `differential_attention` that belong to new queries.

    Args:
      query: new queries; query t of sequence b stands at ``starts[b] + t``.
      first_key: keys of the first head of each pair, by position, as columns.
      second_key: keys of the second.
      value: values by position.
      lam: weight of the subtracted map.
      starts: position of the first new query of each sequence.
      window: keys that a query sees, itself included; None: all before it.
    """
    none = jnp.zeros_like(query[:, :0, 0::2])
    options: dict[str, Any] = {
        "starts": starts,
        "window": window,
        "out_dtype": jnp.promote_types(value.dtype, jnp.float32),
    }
    first = cached_multi_token_attention(query[:, :, 0::2], none, first_key, value, **options)
    second = cached_multi_token_attention(query[:, :, 1::2], none, second_key, value, **options)
    return (first - lam * second).astype(value.dtype)


def _check_pairs(query: Array, key: Array) -> None:
    if query.shape[2] % 2 or key.shape[2] % 2:
        raise ValueError(
            f"{query.shape[2]} query and {key.shape[2]} key heads: differential attention needs "
            "an even number of both"
        )
