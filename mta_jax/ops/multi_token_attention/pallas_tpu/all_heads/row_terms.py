"""The first backward kernel: what the softmax of each row takes off its gradient.

That is the sum over keys of weights times their gradients. Without head mixing it would be
the product of output and cotangent; with it, neither knows what each head's weights were.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.operands import (
    hide,
    key_spec,
    matrix_spec,
    query_spec,
    segment_operands,
    segment_specs,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Cut, Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.steps import row_by_row
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, compiler_params
from mta_jax.ops.multi_token_attention.pallas_tpu.row_statistics import (
    add_lanes,
    load_columns,
    put_sums,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    put_head,
    staggered,
    to_width,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Column, distance_at, entry
from mta_jax.typing import Array, Float, Int


def row_terms(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S Hv"],
    pre_matrix: Float[Array, "programs stack stack"] | None,
    post_matrix: Float[Array, "programs stack stack"] | None,
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None,
    offset: Int[Array, ""] | None,
    dout: Float[Array, "B N T Hv"],
    statistics: Float[Array, "B programs stacks 2 stack"],
) -> Float[Array, "B programs stacks 1 stack"]:
    """Sums over keys of weights times their gradients, for each row of each stack.

    `pre_matrix` is that of the forward kernel, `post_matrix` is (in, out). Of `statistics`
    the second is divided by.
    """
    steps = row_by_row(plan, offset)
    stacks = plan.query_block // plan.rows
    matrices = [matrix for matrix in (pre_matrix, post_matrix) if matrix is not None]

    def of_rows(count: int) -> pl.BlockSpec:
        return pl.BlockSpec(
            (None, None, stacks, count, plan.stack),
            lambda b, p, s, steps: (b, p, entry(steps, Column.QUERY, s), 0, 0),
        )

    operands = [query, key, value, *matrices, dout, statistics]
    in_specs = [
        query_spec(plan, plan.head_size),
        key_spec(plan, plan.head_size, Column.KEY),
        key_spec(plan, plan.value_size, Column.KEY),
        *[matrix_spec(plan)] * len(matrices),
        query_spec(plan, plan.value_size),
        of_rows(2),
    ]
    if segments is not None:
        operands += segment_operands(segments, keys_first=False)
        in_specs += segment_specs(plan, keys_first=False)
    tile = (stacks, plan.group, plan.rows, plan.key_block)
    columns = pltpu.VMEM((stacks, plan.stack, LANES), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.batch, plan.programs, steps.taken),
            in_specs=in_specs,
            out_specs=of_rows(1),
            scratch_shapes=[
                pltpu.VMEM(tile, plan.logit_dtype),
                pltpu.VMEM(tile, plan.dtype),
                columns,
                columns,
                pltpu.VMEM((plan.stack, LANES), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((*statistics.shape[:3], 1, plan.stack), jnp.float32),
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        interpret=plan.interpret,
        name="mta_mixed_row_terms",
    )(steps.table, *operands)


def _kernel(plan: Plan, steps: Ref, query: Ref, key: Ref, value: Ref, *rest: Ref) -> None:
    refs = list(rest)
    pre_matrix = refs.pop(0) if plan.mixes_logits else None
    post_matrix = refs.pop(0) if plan.mixes_probs else None
    dout, statistics = refs.pop(0), refs.pop(0)
    segments = (refs.pop(0), refs.pop(0)) if plan.has_segments else None
    out, logits, dweights, maximum, total, turned = refs
    s = pl.program_id(2)
    i, j = entry(steps, Column.QUERY, s), entry(steps, Column.KEY, s)
    distance = distance_at(plan.tiling, steps, s) if plan.has_offset else None
    num_stacks = logits.shape[0]

    @pl.when(j == 0)
    def start_row() -> None:
        total[...] = jnp.zeros_like(total)

        load_columns(statistics, (maximum, None))

    def gather(diagonal: int | Cut | None) -> None:
        keys = slice(0, plan.last_key(diagonal))

        def products(heads: list[Array]) -> None:
            both = [
                (
                    plan.dot(query[n], key[plan.kv_head(n), keys], (1, 1)),
                    plan.dot(dout[n], value[plan.kv_head(n), keys], (1, 1)),
                )
                for n in heads
            ]
            for n, (product, dproduct) in zip(heads, both, strict=True):
                put_head(logits, n, keys, product)
                put_head(dweights, n, keys, dproduct)

        plan.for_each(plan.group, products)

        def mixed(part: tuple[Array, slice]) -> tuple[Array, Array]:
            g, columns = part
            x = logits[g, :, :, columns].reshape(plan.stack, -1)
            dp = dweights[g, :, :, columns].reshape(plan.stack, -1)
            if post_matrix is not None:
                dp = plan.dot(post_matrix[...], dp, (1, 0))
            x = x * plan.log2_scale if pre_matrix is None else plan.dot(pre_matrix[...], x, (1, 0))
            x = hide(plan, x, g, columns, diagonal=diagonal, segments=segments, keys_first=False)
            return x, dp

        def add(part: tuple[Array, slice], both: tuple[Array, Array]) -> None:
            g, (x, dp) = part[0], both
            add_lanes(total, g, jnp.exp2(x - to_width(maximum[g], x.shape[1])) * dp)

        def body(indices: list[Array]) -> None:
            parts = [(g, columns) for g in indices for columns in plan.parts(keys.stop)]
            staggered(parts, mixed, add)

        plan.for_each(num_stacks, body)

    for is_here, diagonal in plan.places(i, j, distance):
        pl.when(is_here)(functools.partial(gather, diagonal))

    ends_row = (j + 1) * plan.key_block >= (i + 1) * plan.query_block
    if plan.has_offset:
        ends_row = entry(steps, Column.STAGE, s) == 1

    @pl.when(ends_row)
    def finish_row() -> None:
        put_sums(total, turned, out)
        out[...] /= statistics[:, 1:]
