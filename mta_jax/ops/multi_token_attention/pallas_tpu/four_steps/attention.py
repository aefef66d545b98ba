"""The differentiable core: heads before positions."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mta_jax.ops.kept import keep
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.backward import backward
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.forward import forward
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.kernels import (
    Kernels,
    in_forward,
    matrices_of_gradients,
    prepare,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import (
    LEAPS,
    ROWS,
    RUN,
    Plan,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import Documents, lay_out
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.windows import (
    from_row_windows,
    row_windows,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import in_32_bits
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import sum_programs
from mta_jax.typing import Array, Float, Int

_NOTHING = 1e30
"""Largest logit of a row that is to have no weights: all others vanish beside it."""


class MixingKernels(NamedTuple):
    """The arguments of `multi_token_attention` of these names."""

    pre_kq_kernel: Float[Array, "N Cq Ck"] | None
    pre_head_kernel: Float[Array, "M Ch Ch"] | None
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None


class Sequences(NamedTuple):
    """Documents of queries and keys, and the position of the first query, where there are any."""

    segment_ids: Int[Array, "B T"] | None
    key_segment_ids: Int[Array, "B S"] | None
    offset: Int[Array, ""] | None

    def documents(self, plan: Plan) -> Documents | None:
        """As the kernels want them."""
        if self.segment_ids is None or self.key_segment_ids is None:
            return None
        return lay_out(plan, self.segment_ids, self.key_segment_ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S Hv"],
    kernels: MixingKernels,
    sequences: Sequences,
) -> Float[Array, "B N T Hv"]:
    """Causal attention with any of the four mixing steps.

    Only the arguments and two floats per row and head are kept for the gradient.
    """
    return _forward(plan, query, key, value, kernels, sequences)[0]


@in_32_bits
def _forward(
    plan: Plan,
    query: Array,
    key: Array,
    value: Array,
    kernels: MixingKernels,
    sequences: Sequences,
) -> tuple[Array, tuple]:
    out, statistics = forward(
        plan,
        query,
        key,
        value,
        in_forward(plan, prepare(plan, *kernels)),
        sequences.documents(plan),
        sequences.offset,
    )
    largest, denominator = (keep(_by_head(plan, statistics[:, :, :, row])) for row in range(2))
    return keep(out), (query, key, value, kernels, sequences, largest, denominator)


@in_32_bits
def _backward(plan: Plan, residuals: tuple, dout: Array) -> tuple[Any, ...]:
    query, key, value, kernels, sequences, largest, denominator = residuals
    plan = dataclasses.replace(plan, is_backward=True)
    matrices, to_kernels = jax.vjp(lambda kernels: prepare(plan, *kernels).given(), kernels)
    rows = [_to_stacks(plan, largest, _NOTHING), _to_stacks(plan, 1 / denominator, 0.0)]
    dquery, dkey, dvalue, dkernels = backward(
        plan,
        query,
        key,
        value,
        in_forward(plan, Kernels.taken(plan, list(matrices))),
        matrices_of_gradients(plan, Kernels.taken(plan, list(matrices))),
        sequences.documents(plan),
        sequences.offset,
        dout.astype(plan.dtype),
        jnp.stack(rows, axis=3),
    )

    if dkernels.pre_matrix is not None:
        scaled = dkernels.pre_matrix * plan.scale
        dkernels = dataclasses.replace(dkernels, pre_matrix=scaled)
    return (
        dquery,
        sum_programs(dkey, key),
        sum_programs(dvalue, value),
        to_kernels([jnp.sum(x, axis=0) for x in dkernels.given()])[0],
        Sequences(None, None, None),
    )


def _by_head(plan: Plan, x: Float[Array, "B programs stacks stack"]) -> Float[Array, "B N T"]:
    """Rows of stacks, by head and position."""
    x = x.reshape(plan.batch, plan.programs, -1, plan.stacks, plan.group, plan.rows)
    x = jnp.moveaxis(x, 4, 2).reshape(plan.batch, plan.num_heads, plan.query_windows, ROWS)
    return from_row_windows(plan, x)


def _to_stacks(
    plan: Plan, x: Float[Array, "B N T"], elsewhere: float
) -> Float[Array, "B programs stacks stack"]:
    """Rows of stacks; `elsewhere` for those that a window does not own."""
    owned = np.zeros((2, RUN, LEAPS), bool)
    owned[:, :, plan.owned_leaps] = True
    position = row_windows(plan, jnp.ones((1, 1, plan.length), jnp.float32))
    is_owned = (position > 0) & owned.reshape(-1)
    x = jnp.where(is_owned, row_windows(plan, x), elsewhere)
    x = x.reshape(plan.batch, plan.programs, plan.group, -1, plan.stacks, plan.rows)
    return jnp.moveaxis(x, 2, 4).reshape(plan.batch, plan.programs, -1, plan.stack)


attention.defvjp(_forward, _backward)
