"""The forward kernel: two passes over each row of tiles.

Heads that are mixed after the softmax have each their own denominators, so weights have to be
complete before they meet values: the first pass gathers what each row's softmax needs, the
second computes the logits again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.operands import (
    hide,
    key_spec,
    matrix_spec,
    query_spec,
    segment_operands,
    segment_specs,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Cut, Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import Ref, compiler_params
from mta_jax.ops.multi_token_attention.pallas_tpu.row_statistics import RowStatistics
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    put_head,
    staggered,
    take_head,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import (
    Column,
    distance_at,
    entry,
    in_two_passes,
)
from mta_jax.typing import Array, Float, Int


def forward(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S Hv"],
    pre_matrix: Float[Array, "programs stack stack"] | None,
    post_matrix: Float[Array, "programs stack stack"] | None,
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None,
    offset: Int[Array, ""] | None,
) -> tuple[Float[Array, "B N T Hv"], Float[Array, "B programs stacks 2 stack"]]:
    """Attention of all heads.

    `pre_matrix` is (out, in) and has the scale of the logits, in units of log 2.

    Returns:
      The output, and of each row of each stack the largest logit in units of log 2 and the
      softmax denominator relative to it, infinite where a row sees no key.
    """
    steps = in_two_passes(plan.tiling, offset)
    stacks = plan.query_block // plan.rows
    matrices = [matrix for matrix in (pre_matrix, post_matrix) if matrix is not None]
    operands = [query, key, value, *matrices]
    in_specs = [
        query_spec(plan, plan.head_size),
        key_spec(plan, plan.head_size, Column.KEY),
        key_spec(plan, plan.value_size, Column.VALUE),
        *[matrix_spec(plan)] * len(matrices),
    ]
    if segments is not None:
        operands += segment_operands(segments, keys_first=False)
        in_specs += segment_specs(plan, keys_first=False)
    tile = (stacks, plan.group, plan.rows, plan.key_block)
    return pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.batch, plan.programs, steps.taken),
            in_specs=in_specs,
            out_specs=[
                query_spec(plan, plan.value_size),
                pl.BlockSpec(
                    (None, None, stacks, 2, plan.stack),
                    lambda b, p, s, steps: (b, p, entry(steps, Column.QUERY, s), 0, 0),
                ),
            ],
            scratch_shapes=[
                pltpu.VMEM(tile, plan.logit_dtype),
                pltpu.VMEM(tile, plan.dtype),
                *RowStatistics.scratch_shapes(stacks, plan.stack),
                pltpu.VMEM((plan.group, plan.query_block, plan.value_size), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(
                (plan.batch, plan.num_heads, plan.length, plan.value_size), plan.out_dtype
            ),
            jax.ShapeDtypeStruct(
                (plan.batch, plan.programs, plan.length // plan.rows, 2, plan.stack), jnp.float32
            ),
        ],
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        interpret=plan.interpret,
        name="mta_mixed_forward",
    )(steps.table, *operands)


def _kernel(plan: Plan, steps: Ref, query: Ref, key: Ref, value: Ref, *rest: Ref) -> None:
    refs = list(rest)
    pre_matrix = refs.pop(0) if plan.mixes_logits else None
    post_matrix = refs.pop(0) if plan.mixes_probs else None
    segments = (refs.pop(0), refs.pop(0)) if plan.has_segments else None
    out, statistics, logits, weights, maximum, total, columns, accumulator = refs
    softmax = RowStatistics(
        maximum=maximum,
        total=total,
        columns=columns,
        hidden=MASK_VALUE,
        has_blank_rows=plan.has_offset,
        interpret=plan.interpret,
    )
    s = pl.program_id(2)
    i, j, stage = (entry(steps, column, s) for column in (Column.QUERY, Column.KEY, Column.STAGE))
    distance = distance_at(plan.tiling, steps, s) if plan.has_offset else None
    is_first_pass = stage == 0
    num_stacks = logits.shape[0]

    def stack_logits(keys: slice) -> None:
        def body(heads: list[Array]) -> None:
            products = [plan.dot(query[n], key[plan.kv_head(n), keys], (1, 1)) for n in heads]
            for n, product in zip(heads, products, strict=True):
                put_head(logits, n, keys, product)

        plan.for_each(plan.group, body)

    def mixed(g: Array, keys: slice, diagonal: int | Cut | None) -> Array:
        """Logits of some columns of a stack, ``[stack, keys]``, mixed and hidden."""
        x = logits[g, :, :, keys].reshape(plan.stack, -1)
        x = x * plan.log2_scale if pre_matrix is None else plan.dot(pre_matrix[...], x, (1, 0))
        return hide(plan, x, g, keys, diagonal=diagonal, segments=segments, keys_first=False)

    def gather(diagonal: int | Cut | None) -> None:
        """The first pass."""
        keys = slice(0, plan.last_key(diagonal))
        stack_logits(keys)

        def body(indices: list[Array]) -> None:
            tiles = [mixed(g, keys, diagonal) for g in indices]
            for g, x in zip(indices, tiles, strict=True):
                softmax.add(g, x)

        plan.for_each(num_stacks, body)

    def attend(diagonal: int | Cut | None) -> None:
        """The second pass."""
        keys = slice(0, plan.last_key(diagonal))
        stack_logits(keys)

        def weigh(part: tuple[Array, slice], x: Array) -> None:
            g, columns = part
            width = columns.stop - columns.start
            p = softmax.weights(g, x).astype(plan.dtype)
            if post_matrix is not None:
                p = plan.dot(post_matrix[...], p, (1, 0))
            shape = (*weights.shape[1:3], width)
            weights[g, :, :, columns] = p.reshape(shape).astype(weights.dtype)

        def body(indices: list[Array]) -> None:
            parts = [(g, columns) for g in indices for columns in plan.parts(keys.stop)]
            staggered(parts, lambda part: mixed(*part, diagonal), weigh)

        plan.for_each(num_stacks, body)

        def add(heads: list[Array]) -> None:
            products = [
                plan.dot(take_head(weights, n, keys), value[plan.kv_head(n), keys], (1, 0))
                for n in heads
            ]
            for n, product in zip(heads, products, strict=True):
                accumulator[n] += product

        plan.for_each(plan.group, add)

    @pl.when(is_first_pass & (j == 0))
    def start_row() -> None:
        softmax.start()
        accumulator[...] = jnp.zeros_like(accumulator)

    for is_here, diagonal in plan.places(i, j, distance):
        pl.when(is_first_pass & is_here)(functools.partial(gather, diagonal))

    @pl.when(is_first_pass & (j == entry(steps, Column.VALUE, s)))
    def finish_first_pass() -> None:
        softmax.finish(statistics)

    for is_here, diagonal in plan.places(i, j, distance):
        pl.when(~is_first_pass & is_here)(functools.partial(attend, diagonal))

    @pl.when(~is_first_pass & (j == 0))
    def finish_row() -> None:
        out[...] = accumulator[...].astype(out.dtype)
