"""The differentiable core: padded arrays, heads before positions, no head mixing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mta_jax.ops.kept import keep
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import in_32_bits
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.backward import backward
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.expand_keys import expand_keys
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.forward import forward
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.segments import segment_layouts
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.toeplitz import (
    expansion_matrix,
    strip_matrix,
)
from mta_jax.typing import Array, Float, Int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K T H"],
    value: Float[Array, "B V T Hv"],
    kq_kernel: Float[Array, "N Cq Ck"],
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B N T Hv"]:
    """Causal attention over logits convolved with `kq_kernel`.

    V divides N: consecutive heads share an array of values. Only the arguments, the
    output and two floats per row and head are kept for the gradient.
    """
    return _forward(plan, query, key, value, kq_kernel, segment_ids)[0]


@in_32_bits
def _forward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    kq_kernel: Array,
    segment_ids: Array | None,
) -> tuple[Array, tuple]:
    segments = None if segment_ids is None else segment_layouts(plan, segment_ids)
    expansion, strips = _matrices(plan, kq_kernel)
    expanded = expand_keys(plan, key, expansion, segments)
    out, statistics = forward(plan, query, key, value, expanded, strips, segments)
    out, statistics = keep(out), keep(statistics)
    return out, (query, key, value, kq_kernel, segment_ids, out, statistics)


@in_32_bits
def _backward(plan: Plan, residuals: tuple, dout: Array) -> tuple[Any, ...]:
    query, key, value, kq_kernel, segment_ids, out, statistics = residuals
    segments = None if segment_ids is None else segment_layouts(plan, segment_ids)
    (expansion, strips), to_kernel = jax.vjp(
        functools.partial(_matrices, plan, dtype=jnp.float32), kq_kernel
    )
    expansion, strips = expansion.astype(plan.dtype), strips.astype(plan.dtype)
    expanded = expand_keys(plan, key, expansion, segments)
    # The kernel forms weights that are not divided; their gradient and values' are linear
    # in `dout`, which can be divided instead.
    dout = dout.astype(jnp.float32) / statistics[:, :, 1, :, None]
    delta = jnp.sum(dout * out.astype(jnp.float32), axis=-1)
    dquery, dkey, dvalue, dexpansion, dstrips = backward(
        plan,
        query,
        key,
        value,
        expanded,
        expansion,
        strips,
        segments,
        dout.astype(plan.dtype),
        statistics[:, :, :1],
        delta[:, :, None],
    )
    (dkernel,) = to_kernel((jnp.sum(dexpansion, axis=0), jnp.sum(dstrips, axis=0)))

    def sum_heads(x: Array, like: Array) -> Array:
        grouped = x.reshape(x.shape[0], like.shape[1], -1, *x.shape[2:])
        return jnp.sum(grouped, axis=2).astype(like.dtype)

    return (
        dquery.astype(query.dtype),
        sum_heads(dkey, key),
        sum_heads(dvalue, value),
        dkernel,
        None,
    )


def _matrices(plan: Plan, kq_kernel: Array, dtype: Any = None) -> tuple[Array, Array]:
    dtype = dtype or plan.dtype
    return (
        expansion_matrix(plan, kq_kernel).astype(dtype),
        strip_matrix(plan, kq_kernel).astype(dtype),
    )


attention.defvjp(_forward, _backward)
