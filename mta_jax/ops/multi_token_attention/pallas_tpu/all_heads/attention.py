"""The differentiable core: padded arrays, heads before positions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mta_jax.ops.kept import keep
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.backward import backward
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.forward import forward
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.row_terms import row_terms
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import in_32_bits
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import stack_matrices, sum_programs
from mta_jax.typing import Array, Float, Int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S Hv"],
    pre_head_kernel: Float[Array, "M Ch Ch"] | None,
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None,
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None,
    offset: Int[Array, ""] | None,
) -> Float[Array, "B N T Hv"]:
    """Causal attention whose logits and weights are mixed across heads.

    Only the arguments and two floats per row and head are kept for the gradient.
    """
    arrays = (query, key, value, pre_head_kernel, post_head_kernel, segments, offset)
    return _forward(plan, *arrays)[0]


@in_32_bits
def _forward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    pre_head_kernel: Array | None,
    post_head_kernel: Array | None,
    segments: tuple[Array, Array] | None,
    offset: Array | None,
) -> tuple[Array, tuple]:
    pre = _matrices(plan, pre_head_kernel, plan.log2_scale)
    post = _matrices(plan, post_head_kernel, 1.0)
    out, statistics = forward(plan, query, key, value, pre, post, segments, offset)
    out, statistics = keep(out), keep(statistics)
    arrays = (query, key, value, pre_head_kernel, post_head_kernel, segments, offset)
    return out, (*arrays, statistics)


@in_32_bits
def _backward(plan: Plan, residuals: tuple, dout: Array) -> tuple[Any, ...]:
    query, key, value, pre_head_kernel, post_head_kernel, segments, offset, statistics = residuals
    dout = dout.astype(plan.dtype)
    pre = _matrices(plan, pre_head_kernel, plan.log2_scale)
    post = _matrices(plan, post_head_kernel, 1.0)
    post_transposed = _transposed(post)
    terms = row_terms(
        plan, query, key, value, pre, post_transposed, segments, offset, dout, statistics
    )
    largest, denominator = statistics[:, :, :, 0], statistics[:, :, :, 1]
    rows = [_by_head(plan, x) for x in (largest, 1 / denominator, terms[:, :, :, 0])]
    dquery, dkey, dvalue, dpre, dpost = backward(
        plan,
        query,
        key,
        value,
        _given(pre, _transposed(_matrices(plan, pre_head_kernel, plan.scale))),
        _given(post, post_transposed),
        segments,
        offset,
        dout,
        jnp.stack(rows, axis=2),
    )

    def of_kernel(kernel: Array | None, dmatrices: Array | None, scale: float) -> Array | None:
        if kernel is None or dmatrices is None:
            return None
        _, to_kernel = jax.vjp(functools.partial(stack_matrices, plan), kernel)
        return to_kernel(jnp.sum(dmatrices, axis=0) * scale)[0]

    return (
        dquery.astype(query.dtype),
        sum_programs(dkey, key),
        sum_programs(dvalue, value),
        of_kernel(pre_head_kernel, dpre, plan.scale),
        of_kernel(post_head_kernel, dpost, 1.0),
        None,
        None,
    )


def _matrices(plan: Plan, head_kernel: Array | None, scale: float) -> Array | None:
    if head_kernel is None:
        return None
    return (stack_matrices(plan, head_kernel) * scale).astype(plan.dtype)


def _transposed(matrices: Array | None) -> Array | None:
    return None if matrices is None else jnp.swapaxes(matrices, 1, 2)


def _given(*matrices: Array | None) -> tuple[Array, ...]:
    return tuple(matrix for matrix in matrices if matrix is not None)


def _by_head(plan: Plan, x: Float[Array, "B programs stacks stack"]) -> Float[Array, "B N T"]:
    """Rows of stacks, by head and position."""
    x = x.reshape(*x.shape[:3], plan.group, plan.rows)
    return jnp.swapaxes(x, 2, 3).reshape(plan.batch, plan.num_heads, plan.length)


attention.defvjp(_forward, _backward)
