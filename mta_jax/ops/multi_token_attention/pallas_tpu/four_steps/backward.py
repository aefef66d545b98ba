"""The backward kernel: two passes over each row of tiles.

The first finds what the softmax of each row takes off its gradient: the sum over keys of
weights times their gradients. (Without mixing it would be the product of output and
cotangent; with it, neither knows what each head's weights were.) The second computes every
gradient: a window takes the weights of the rows that it owns to whatever they reach, rows
behind it that read them and rows before it that they read.

Gradients of keys and values gather in main memory, a tile at a time: they are read while the
last products of a tile are computed, and written while the first ones of the next are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps import windows
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.convolution import (
    band_gradients,
    put_margins,
    source_shape,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.gradients import (
    WeightGradients,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.kernels import Kernels
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.logits import (
    Tile,
    convolve_heads,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import (
    ALIGNED,
    ROWS,
    RUN,
    Plan,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import (
    Documents,
    Place,
    Position,
    document_specs,
    key_spec,
    per_program_spec,
    places,
    query_specs,
    stack_spec,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, compiler_params
from mta_jax.ops.multi_token_attention.pallas_tpu.row_statistics import add_lanes, load_columns
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    put_stack,
    staggered,
    take_head,
    to_width,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import (
    Column,
    distance_at,
    entry,
    in_two_passes,
)
from mta_jax.typing import Array, Float, Int


def backward(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S Hv"],
    kernels: Kernels,
    matrices: tuple[Array | None, Array | None],
    documents: Documents | None,
    offset: Int[Array, ""] | None,
    dout: Float[Array, "B N T Hv"],
    rows: Float[Array, "B programs stacks 2 stack"],
) -> tuple[Array, Array, Array, Kernels]:
    """Gradients, those of queries as the operands, others in float32.

    Args:
      plan: of the call, backward.
      query: queries.
      key: keys.
      value: values.
      kernels: as the forward pass has them.
      matrices: those that mix the gradients of logits, with their scale in natural units,
        and of weights.
      documents: of packed rows.
      offset: position of the first query.
      dout: gradient of the output.
      rows: of each row of each stack the largest logit, and what weights are multiplied by
        after the exponential: zero for rows that a window does not own.

    Returns:
      Those of queries, of keys and values ``[B, programs * kv_heads, S, ...]``, and of the
      kernels, without scale and with batches first.
    """
    steps = in_two_passes(plan.tiling, offset)
    scalars = [steps.table] if documents is None else [steps.table, documents.ranges]
    constants = [*kernels.given(), *[x for x in matrices if x is not None]]
    queries = query_specs(plan, plan.head_size)
    operands = [*[query] * len(queries), key, value, *constants, *[dout] * len(queries), rows]
    in_specs = [
        *queries,
        key_spec(plan, plan.head_size, Column.KEY),
        key_spec(plan, plan.value_size, Column.KEY),
        *[per_program_spec(x) for x in constants],
        *query_specs(plan, plan.value_size),
        stack_spec(plan, 2),
    ]
    if documents is not None:
        operands += [documents.rows, documents.columns]
        in_specs += document_specs(plan)

    in_main_memory = pl.BlockSpec(memory_space=pl.ANY)

    def key_gradient(size: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        heads = plan.programs * plan.kv_heads
        shape = (plan.batch, heads, plan.key_length, size)
        return in_main_memory, jax.ShapeDtypeStruct(shape, jnp.float32)

    key_gradients = [key_gradient(size) for size in (plan.head_size, plan.value_size)]
    outputs = [
        _query_gradient(plan),
        *key_gradients,
        *[
            (in_main_memory, jax.ShapeDtypeStruct((plan.batch, *x.shape), jnp.float32))
            for x in kernels.given()
        ],
    ]
    # Sums begin with these.
    aliases = {}
    for index, (spec, shape) in enumerate(key_gradients):
        aliases[len(scalars) + len(operands)] = 1 + index
        operands.append(jnp.zeros(shape.shape, shape.dtype))
        in_specs.append(spec)
    out_specs, out_shape = zip(*outputs, strict=True)
    source = pltpu.VMEM(source_shape(plan), plan.dtype)
    stacked_shape = (plan.stacks, plan.group, plan.rows, plan.columns)
    kept_tiles = [plan.key_tiles if kept else 1 for kept in _kept(plan)]
    columns = pltpu.VMEM((plan.stacks, plan.stack, LANES), jnp.float32)
    dquery, dkey, dvalue, *dkernels = pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(plan.batch, plan.programs, steps.taken),
            in_specs=in_specs,
            out_specs=list(out_specs),
            scratch_shapes=[
                *[source] * 4,
                pltpu.VMEM(stacked_shape, plan.dtype),
                *[pltpu.VMEM((count, *stacked_shape), plan.dtype) for count in kept_tiles],
                pltpu.VMEM((ROWS, plan.columns), jnp.float32),
                *[columns] * 3,
                pltpu.VMEM((plan.kv_heads, plan.tile_keys, plan.head_size), jnp.float32),
                pltpu.VMEM((plan.kv_heads, plan.tile_keys, plan.value_size), jnp.float32),
                *[pltpu.VMEM(x.shape[1:], jnp.float32) for x in kernels.given()],
                pltpu.VMEM((plan.group, ROWS, plan.head_size), plan.dtype),
                pltpu.VMEM((plan.group, ROWS, plan.value_size), plan.dtype),
                pltpu.VMEM((plan.group, ROWS, plan.head_size), jnp.float32),
                pltpu.VMEM((plan.group, ROWS - plan.queries, plan.head_size), jnp.float32),
                *[windows.unsorted_memory(size) for size in (plan.head_size, plan.value_size)],
                pltpu.SMEM((1,), jnp.int32),
                *[pltpu.SemaphoreType.DMA] * 4,
            ],
        ),
        out_shape=list(out_shape),
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        input_output_aliases=aliases,
        interpret=plan.interpret,
        name="mta_full_backward",
    )(*scalars, *operands)
    dquery = dquery[:, :, 2 * RUN : 2 * RUN + plan.length]
    return dquery, dkey, dvalue, Kernels.taken(plan, dkernels)


def _query_gradient(plan: Plan) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
    """Windows end with rows that the next one adds to, so those before its own come with them."""
    spec = pl.BlockSpec(
        (None, plan.group, plan.queries, plan.head_size),
        lambda b, p, s, steps, *_: (b, p, entry(steps, Column.QUERY, s), 0),
    )
    rows = plan.query_windows * plan.queries
    shape = (plan.batch, plan.num_heads, rows, plan.head_size)
    return spec, jax.ShapeDtypeStruct(shape, plan.dtype)


def _kept(plan: Plan) -> tuple[bool, bool]:
    """Whether convolved logits, and gradients of weights, are kept for the second pass."""
    return plan.kept_maps > 1, plan.kept_maps > 0


def _kernel(plan: Plan, steps: Ref, *rest: Ref) -> None:
    refs = list(rest)
    ranges = refs.pop(0) if plan.has_segments else None
    query_parts = [refs.pop(0) for _ in range(3)]
    key, value = refs.pop(0), refs.pop(0)
    kernels = Kernels.taken(plan, refs)
    pre_transposed: Any = refs.pop(0) if plan.mixes_logits else None
    post_transposed: Any = refs.pop(0) if plan.mixes_probs else None
    dout_parts = [refs.pop(0) for _ in range(3)]
    rows = refs.pop(0)
    documents = (refs.pop(0), refs.pop(0)) if plan.has_segments else None
    # Their zeros are where the gradients are, in main memory.
    del refs[:2]
    dquery_rows, dkey, dvalue = refs.pop(0), refs.pop(0), refs.pop(0)
    dkernels_in_main_memory = Kernels.taken(plan, refs)
    # Maps of logits and weights, and gradients of what became of them.
    logits, weights, dconvolved_logits, dconvolved_weights, *refs = refs
    # First convolved logits, then convolved weights, then mixed ones; gradients of mixed
    # weights; gradients of weights, then of logits.
    dmixed, stacked_tiles, dstacked_tiles, seen, *refs = refs
    largest, factor, term, dkey_tile, dvalue_tile, *refs = refs
    dkernels = Kernels.taken(plan, refs)
    query, dout, dquery, carried, unsorted_query, unsorted_dout, *refs = refs
    is_writing, *semaphores = refs
    b, p, s = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    i, j, stage = (entry(steps, column, s) for column in (Column.QUERY, Column.KEY, Column.STAGE))
    is_first_pass = stage == 0
    at = Position(i, j, distance_at(plan.tiling, steps, s) if plan.has_offset else None)
    keeps_logits, keeps_dweights = _kept(plan)
    stacked = stacked_tiles.at[j if keeps_logits else 0]
    dstacked = dstacked_tiles.at[j if keeps_dweights else 0]
    heads_here = pl.ds(p * plan.kv_heads, plan.kv_heads)
    keys_here = pl.ds(pl.multiple_of(plan.tiling.first_key(j), ALIGNED), plan.tile_keys)
    reads, writes = [], []
    for here, there in ((dkey_tile, dkey), (dvalue_tile, dvalue)):
        in_main_memory = there.at[b, heads_here, keys_here]
        reads.append(pltpu.make_async_copy(in_main_memory, here, semaphores.pop()))
        writes.append(pltpu.make_async_copy(here, in_main_memory, semaphores.pop()))
    tile = Tile(
        plan=plan,
        at=at,
        query=query,
        key=key,
        kernels=kernels,
        documents=documents,
        source=logits,
        stacked=stacked,
        seen=seen,
    )
    gradients = WeightGradients(
        tile=tile,
        value=value,
        dout=dout,
        post_transposed=post_transposed,
        source=dconvolved_weights,
        dmixed=dmixed,
        dweights=dstacked,
    )

    @pl.when(s == 0)
    def start_heads() -> None:
        is_writing[0] = 0
        for ref in dkernels.given():
            ref[...] = jnp.zeros_like(ref)

    def gather(place: Place) -> None:
        """The first pass."""
        tile.look(place)
        tile.multiply(place)
        tile.convolve(place)
        gradients.gather(place)

        def mixed(g: Array) -> tuple[Array, Array]:
            return tile.mixed(g, place), gradients.of_stack(g)

        def add(g: Array, both: tuple[Array, Array]) -> None:
            x, dp = both
            add_lanes(term, g, jnp.exp2(x - to_width(largest[g], plan.columns)) * dp)

        plan.for_each(plan.stacks, lambda indices: staggered(indices, mixed, add))

    def finish_terms(indices: list[Array]) -> None:
        for g in indices:
            total = jnp.sum(term[g] * factor[g], axis=1, keepdims=True)
            term[g] = jnp.broadcast_to(total, term.shape[1:])

    def attend(place: Place) -> None:
        """The second pass."""
        tile.look(place)
        if not keeps_logits or plan.pre_taps is not None:
            tile.multiply(place)
        if not keeps_logits:
            tile.convolve(place)
        gradients.multiply(place)
        if not keeps_dweights:
            gradients.convolve(place)
        plan.for_each(plan.stacks, functools.partial(soften, place))
        if plan.post_taps is not None:
            plan.for_each(plan.group, put_margins_of_weights)
            convolve_heads(tile, weights, kernels.post_bands, stacked, place, hides=True)
            plan.for_each(
                plan.group,
                functools.partial(for_post_bands, place),
                at_once=place.heads_at_once,
            )
        if plan.mixes_probs:
            plan.for_each(plan.stacks, mix_weights)
        # Tiles overlap.
        finish_writing()
        start_reading()
        if plan.pre_taps is not None:
            plan.for_each(plan.group, put_margins_of_gradients)
            convolve_heads(
                tile,
                dconvolved_logits,
                kernels.pre_bands,
                dstacked,
                place,
                transposed=True,
                hides=True,
            )
            plan.for_each(
                plan.group,
                functools.partial(for_pre_bands, place),
                at_once=place.heads_at_once,
            )
        plan.for_each(plan.group, for_queries)
        finish_reading()
        plan.for_each(plan.group, for_values_and_keys)
        start_writing()

    def start_reading() -> None:
        for copy in reads:
            copy.start()

    def finish_reading() -> None:
        for copy in reads:
            copy.wait()

    def start_writing() -> None:
        for copy in writes:
            copy.start()
        is_writing[0] = 1

    def finish_writing() -> None:
        @pl.when(is_writing[0] == 1)
        def wait() -> None:
            for copy in writes:
                copy.wait()

        is_writing[0] = 0

    def soften(place: Place, indices: list[Array]) -> None:
        """Weights, and gradients of the convolved logits, stack by stack."""
        factors: list[tuple[Array, Array]] = []

        def first(g: Array) -> tuple[Array, Array, Array]:
            convolved = stacked[g].reshape(plan.stack, -1)
            return convolved, tile.mixed(g, place), gradients.of_stack(g)

        def second(g: Array, values: tuple[Array, Array, Array]) -> None:
            convolved, x, dp = values
            p = jnp.exp2(x - to_width(largest[g], plan.columns))
            p = p * to_width(factor[g], plan.columns)
            dx = p * (dp - to_width(term[g], plan.columns))
            if plan.post_taps is None:
                put_stack(stacked, g, p)
            else:
                plan.put_stack(weights, g, p)
            if pre_transposed is None:
                dx = dx * plan.scale
            else:
                narrow = dx.astype(plan.dtype)
                factors.append((convolved, narrow))
                dx = plan.dot(pre_transposed[...], narrow, (1, 0))
            if plan.pre_taps is None:
                put_stack(dstacked, g, dx)
            else:
                plan.put_stack(dconvolved_logits, g, dx)

        staggered(indices, first, second)
        if factors:
            # Side by side: sums over the columns of these stacks stay in the matrix unit.
            convolved, dx = (jnp.concatenate(x, axis=1) for x in zip(*factors, strict=True))
            dkernels.pre_matrix[...] += plan.dot(dx, convolved, (1, 1))

    def mix_weights(indices: list[Array]) -> None:
        """Mixed weights in the place of those before, and the gradient of the matrix."""
        before = [stacked[g].reshape(plan.stack, -1) for g in indices]
        after = [plan.dot(kernels.post_matrix[...], x, (1, 0)) for x in before]
        for g, x in zip(indices, after, strict=True):
            put_stack(stacked, g, x)
        dmixed_weights = [dmixed[g].reshape(plan.stack, -1) for g in indices]
        dkernels.post_matrix[...] += plan.dot(
            jnp.concatenate(dmixed_weights, axis=1), jnp.concatenate(before, axis=1), (1, 1)
        )

    pre_taps: Any = plan.pre_taps
    post_taps: Any = plan.post_taps

    def put_margins_of_weights(heads: list[Array]) -> None:
        for n in heads:
            put_margins(post_taps, weights, n)

    def put_margins_of_gradients(heads: list[Array]) -> None:
        for n in heads:
            put_margins(pre_taps, dconvolved_logits, n, transposed=True)

    def for_post_bands(place: Place, heads: list[Array]) -> None:
        add_bands(dkernels.post_bands, post_taps, weights, dconvolved_weights, place, heads)

    def for_pre_bands(place: Place, heads: list[Array]) -> None:
        add_bands(dkernels.pre_bands, pre_taps, logits, dconvolved_logits, place, heads)

    def add_bands(
        dbands: Ref, taps: Any, source: Ref, gradient: Ref, place: Place, heads: list[Array]
    ) -> None:
        found = [
            band_gradients(plan, taps, source, gradient, n, documents=tile.rows_of_documents(place))
            for n in heads
        ]
        for n, bands in zip(heads, found, strict=True):
            for tap, x in enumerate(bands):
                dbands[n, tap] += x

    def for_values_and_keys(heads: list[Array]) -> None:
        both = [
            (
                plan.dot(take_head(stacked, n, plan.all_columns), dout[n], (0, 0)),
                plan.dot(take_head(dstacked, n, plan.all_columns), query[n], (0, 0)),
            )
            for n in heads
        ]
        for n, gradients in zip(heads, both, strict=True):
            for ref, x in zip((dvalue_tile, dkey_tile), gradients, strict=True):
                for window in range(plan.windows):
                    here = pl.ds(window * plan.keys, LANES)
                    ref[plan.kv_head(n), here] += x[window * LANES : (window + 1) * LANES]

    def for_queries(heads: list[Array]) -> None:
        gradients = [
            plan.dot(
                take_head(dstacked, n, plan.all_columns),
                plan.columns_of(key, plan.kv_head(n)),
                (1, 0),
            )
            for n in heads
        ]
        for n, gradient in zip(heads, gradients, strict=True):
            dquery[n] += gradient

    def write_queries(heads: list[Array]) -> None:
        overlap, ahead = slice(0, ROWS - plan.queries), slice(plan.queries, ROWS)
        for k, n in enumerate(heads):
            windows.unsort_rows(dquery, n, unsorted_query.at[k])
            # Nothing is carried to the first window.
            both = windows.read_rows(unsorted_query.at[k], overlap)
            both += jnp.where(i > 0, carried[n], 0)
            windows.write_rows(unsorted_query.at[k], overlap, both)
        for k, n in enumerate(heads):
            own = windows.read_rows(unsorted_query.at[k], slice(0, plan.queries))
            dquery_rows[n] = own.astype(dquery_rows.dtype)
            carried[n] = windows.read_rows(unsorted_query.at[k], ahead)

    @pl.when(is_first_pass & (j == 0))
    def start_row() -> None:
        windows.sort_rows(plan, at, query_parts, unsorted_query, query)
        windows.sort_rows(plan, at, dout_parts, unsorted_dout, dout)
        load_columns(rows, (largest, factor))
        term[...] = jnp.zeros_like(term)
        dquery[...] = jnp.zeros_like(dquery)

    for place in places(plan, at, b, ranges):
        pl.when(is_first_pass & place.is_here)(functools.partial(gather, place))

    @pl.when(is_first_pass & (j == entry(steps, Column.VALUE, s)))
    def finish_first_pass() -> None:
        plan.for_each(plan.stacks, finish_terms)

    for place in places(plan, at, b, ranges):
        pl.when(~is_first_pass & place.is_here)(functools.partial(attend, place))

    @pl.when(~is_first_pass & (j == 0))
    def finish_row() -> None:
        plan.for_each(plan.group, write_queries, at_once=windows.HEADS_AT_ONCE)

    @pl.when(s == pl.num_programs(2) - 1)
    def finish_heads() -> None:
        finish_writing()
        for here, there in zip(dkernels.given(), dkernels_in_main_memory.given(), strict=True):
            pltpu.sync_copy(here, there.at[b, p])
