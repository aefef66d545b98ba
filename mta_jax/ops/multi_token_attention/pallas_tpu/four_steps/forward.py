"""The forward kernel: two passes over each row of tiles, as in `all_heads`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps import windows
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.convolution import (
    put_margins,
    source_shape,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.kernels import Kernels
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.logits import (
    HIDDEN,
    Tile,
    convolve_heads,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import ROWS, Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import (
    Documents,
    Place,
    Position,
    document_specs,
    key_spec,
    own_query_spec,
    per_program_spec,
    places,
    query_specs,
    stack_spec,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import Ref, compiler_params
from mta_jax.ops.multi_token_attention.pallas_tpu.row_statistics import RowStatistics
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    put_stack,
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
    kernels: Kernels,
    documents: Documents | None,
    offset: Int[Array, ""] | None,
) -> tuple[Float[Array, "B N T Hv"], Float[Array, "B programs stacks 2 stack"]]:
    """Attention of all heads.

    Returns:
      The output, and of each row of each stack of a window the largest logit in units of log 2
      and the softmax denominator relative to it.
    """
    steps = in_two_passes(plan.tiling, offset)
    scalars = [steps.table] if documents is None else [steps.table, documents.ranges]
    queries = query_specs(plan, plan.head_size)
    operands = [*[query] * len(queries), key, value, *kernels.given()]
    in_specs = [
        *queries,
        key_spec(plan, plan.head_size, Column.KEY),
        key_spec(plan, plan.value_size, Column.VALUE),
        *[per_program_spec(x) for x in kernels.given()],
    ]
    if documents is not None:
        operands += [documents.rows, documents.columns]
        in_specs += document_specs(plan)
    strip = (plan.key_tiles, plan.stacks, plan.stack, plan.columns)
    return pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(plan.batch, plan.programs, steps.taken),
            in_specs=in_specs,
            out_specs=[
                own_query_spec(plan, plan.value_size),
                stack_spec(plan, 2),
            ],
            scratch_shapes=[
                pltpu.VMEM(source_shape(plan), plan.dtype),
                pltpu.VMEM((plan.stacks, plan.group, plan.rows, plan.columns), plan.dtype),
                pltpu.VMEM((ROWS, plan.columns), jnp.float32),
                *RowStatistics.scratch_shapes(plan.stacks, plan.stack),
                pltpu.VMEM((plan.group, ROWS, plan.value_size), jnp.float32),
                pltpu.VMEM((plan.group, ROWS, plan.head_size), plan.dtype),
                *[windows.unsorted_memory(size) for size in (plan.head_size, plan.value_size)],
                *[pltpu.VMEM(strip, plan.dtype)] * plan.keeps_logits,
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((*query.shape[:3], plan.value_size), plan.out_dtype),
            jax.ShapeDtypeStruct(
                (plan.batch, plan.programs, plan.query_windows * plan.stacks, 2, plan.stack),
                jnp.float32,
            ),
        ],
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        interpret=plan.interpret,
        name="mta_full_forward",
    )(*scalars, *operands)


def _kernel(plan: Plan, steps: Ref, *rest: Ref) -> None:
    refs = list(rest)
    ranges = refs.pop(0) if plan.has_segments else None
    query_parts = [refs.pop(0), refs.pop(0)]
    key, value = refs.pop(0), refs.pop(0)
    kernels = Kernels.taken(plan, refs)
    documents = (refs.pop(0), refs.pop(0)) if plan.has_segments else None
    out, statistics, source, stacked, seen, maximum, total, columns, accumulator, *refs = refs
    query, unsorted_query, unsorted_out, *refs = refs
    softmax = RowStatistics(
        maximum=maximum,
        total=total,
        columns=columns,
        hidden=HIDDEN,
        has_blank_rows=True,
        interpret=plan.interpret,
    )
    strip = refs.pop(0) if plan.keeps_logits else None
    post_matrix: Any = kernels.post_matrix
    b, s = pl.program_id(0), pl.program_id(2)
    i, j, stage = (entry(steps, column, s) for column in (Column.QUERY, Column.KEY, Column.STAGE))
    is_first_pass = stage == 0
    at = Position(i, j, distance_at(plan.tiling, steps, s) if plan.has_offset else None)

    tile = Tile(
        plan=plan,
        at=at,
        query=query,
        key=key,
        kernels=kernels,
        documents=documents,
        source=source,
        stacked=stacked,
        seen=seen,
    )

    def gather(place: Place) -> None:
        """The first pass."""
        tile.look(place)
        tile.multiply(place)
        tile.convolve(place)

        def add(g: Array, x: Array) -> None:
            if strip is not None:
                strip[j, g] = x.astype(strip.dtype)
            softmax.add(g, x)

        plan.for_each(
            plan.stacks,
            lambda indices: staggered(indices, lambda g: tile.mixed(g, place), add),
        )

    def attend(place: Place) -> None:
        """The second pass."""
        tile.look(place)
        if not plan.keeps_logits:
            tile.multiply(place)
            tile.convolve(place)

        def logits_of(g: Array) -> Array:
            return strip[j, g].astype(jnp.float32) if strip is not None else tile.mixed(g, place)

        def weigh(g: Array, x: Array) -> None:
            p = softmax.weights(g, x)
            if plan.post_taps is None:
                put_stack(
                    stacked, g, p if post_matrix is None else mix_weights(p.astype(plan.dtype))
                )
                return
            plan.put_stack(source, g, p)

        plan.for_each(
            plan.stacks,
            lambda indices: staggered(indices, logits_of, weigh),
        )
        if plan.post_taps is not None:
            taps = plan.post_taps

            def put_all_margins(heads: list[Array]) -> None:
                for n in heads:
                    put_margins(taps, source, n)

            plan.for_each(plan.group, put_all_margins)
            convolve_heads(tile, source, kernels.post_bands, stacked, place, hides=True)
            if post_matrix is not None:
                plan.for_each(
                    plan.stacks,
                    lambda indices: staggered(
                        indices,
                        lambda g: mix_weights(stacked[g]),
                        functools.partial(put_stack, stacked),
                    ),
                )

        def add(heads: list[Array]) -> None:
            products = [
                plan.dot(
                    take_head(stacked, n, plan.all_columns),
                    plan.columns_of(value, plan.kv_head(n)),
                    (1, 0),
                )
                for n in heads
            ]
            for n, product in zip(heads, products, strict=True):
                accumulator[n] += product

        plan.for_each(plan.group, add)

    def mix_weights(weights: Array) -> Array:
        return plan.dot(post_matrix[...], weights.reshape(plan.stack, -1), (1, 0))

    def write(heads: list[Array]) -> None:
        for k, n in enumerate(heads):
            windows.unsort_rows(accumulator, n, unsorted_out.at[k])
        for k, n in enumerate(heads):
            own = windows.read_rows(unsorted_out.at[k], slice(ROWS - plan.queries, ROWS))
            out[n] = own.astype(out.dtype)

    @pl.when(is_first_pass & (j == 0))
    def start_row() -> None:
        windows.sort_rows(plan, at, query_parts, unsorted_query, query)
        softmax.start()
        accumulator[...] = jnp.zeros_like(accumulator)

    for place in places(plan, at, b, ranges):
        pl.when(is_first_pass & place.is_here)(functools.partial(gather, place))

    @pl.when(is_first_pass & (j == entry(steps, Column.VALUE, s)))
    def finish_first_pass() -> None:
        softmax.finish(statistics)

    for place in places(plan, at, b, ranges):
        pl.when(~is_first_pass & place.is_here)(functools.partial(attend, place))

    @pl.when(~is_first_pass & (j == 0))
    def finish_row() -> None:
        plan.for_each(plan.group, write, at_once=windows.HEADS_AT_ONCE)
