"""The forward kernel: attention over expanded queries and keys with an online softmax."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, compiler_params, shared
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head import band
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import (
    QUERY_HALO,
    QUERY_HALO_BLOCK,
    STRIP,
    Plan,
    causal_steps,
    side_by_side,
    to_width,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.queries import expand_queries, load_rows
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.segments import SegmentLayouts
from mta_jax.typing import Array, Float


def forward(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K T H"],
    value: Float[Array, "B V T Hv"],
    expanded_key: Float[Array, "B N T CqH"],
    strip_matrix: Float[Array, "N rows lanes"],
    segments: SegmentLayouts | None,
) -> tuple[Float[Array, "B N T Hv"], Float[Array, "B N 2 T"]]:
    """Attention of each head over its values.

    Returns:
      The output, and of each row the largest logit in units of log 2 and the softmax
      denominator relative to it. (One logarithm of both would be rounded more.)
    """
    block = plan.block
    steps = causal_steps(plan.length // block, keys_outside=False)
    specs = row_specs(plan, block)
    kv_group = plan.num_heads // plan.num_kv_heads
    value_group = plan.num_heads // plan.num_values
    in_specs = [
        specs(query_rows=True),
        specs(query_rows=True, halo=QUERY_HALO_BLOCK),
        specs(query_rows=True, group=kv_group),
        specs(query_rows=True, group=kv_group, halo=STRIP),
        pl.BlockSpec((None, *strip_matrix.shape[1:]), lambda b, n, s, steps: (n, 0, 0)),
        specs(query_rows=False, size=plan.expanded_size),
        specs(query_rows=False, group=value_group, size=plan.value_size),
    ]
    operands = [query, query, key, key, strip_matrix, expanded_key, value]
    scratch = [
        pltpu.VMEM((QUERY_HALO + block, plan.head_size), jnp.float32),
        pltpu.VMEM((STRIP + block, plan.head_size), plan.dtype),
        pltpu.VMEM((block // STRIP, band.ROWS, LANES), jnp.float32),
        pltpu.VMEM((plan.query_taps, block, LANES), plan.dtype),
        pltpu.VMEM((block, LANES), jnp.float32),
        pltpu.VMEM((plan.expanded_size // LANES, block, LANES), plan.dtype),
        pltpu.VMEM((block, LANES), jnp.float32),
        pltpu.VMEM((block, LANES), jnp.float32),
        pltpu.VMEM((block, plan.value_size), jnp.float32),
    ]
    if segments is not None:
        in_specs += document_specs(block)
        operands += [segments.columns, segments.columns, segments.row, segments.row]
        in_specs.append(pl.BlockSpec((None, 1, block), lambda b, n, s, steps: (b, 0, steps[1, s])))
        operands.append(segments.row)
        scratch.append(pltpu.VMEM((QUERY_HALO + block, LANES), jnp.int32))
    return pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.batch, plan.num_heads, steps.shape[1]),
            in_specs=in_specs,
            out_specs=[
                specs(query_rows=True, size=plan.value_size),
                pl.BlockSpec((None, None, 2, block), lambda b, n, s, steps: (b, n, 0, steps[0, s])),
            ],
            scratch_shapes=scratch,
        ),
        out_shape=[
            jax.ShapeDtypeStruct(
                (plan.batch, plan.num_heads, plan.length, plan.value_size), plan.out_dtype
            ),
            jax.ShapeDtypeStruct((plan.batch, plan.num_heads, 2, plan.length), jnp.float32),
        ],
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        interpret=plan.interpret,
        name="mta_forward",
    )(steps, *operands)


def row_specs(plan: Plan, block: int) -> Callable[..., pl.BlockSpec]:
    """Makes specs of arrays ``[B, heads, T, size]`` in a grid (batch, head, step).

    `query_rows` follows the query block of the step, else its key block; `halo` takes
    that many rows just before the block instead (any others before the first block);
    `group` heads of the grid share a head of the array.
    """

    def spec(
        *, query_rows: bool, group: int = 1, halo: int = 0, size: int = plan.head_size
    ) -> pl.BlockSpec:
        def index_map(b: Array, n: Array, s: Array, steps: Ref) -> tuple:
            position = steps[0 if query_rows else 1, s]
            if halo:
                position = jnp.maximum(position * (block // halo) - 1, 0)
            return b, shared(n, group), position, 0

        return pl.BlockSpec((None, None, halo or block, size), index_map)

    return spec


def document_specs(block: int) -> list[pl.BlockSpec]:
    """Documents of the query rows and of the keys that their strips see."""

    def before(halo: int, s: Array, steps: Ref) -> Array:
        return jnp.maximum(steps[0, s] * (block // halo) - 1, 0)

    return [
        pl.BlockSpec((None, block, LANES), lambda b, n, s, steps: (b, steps[0, s], 0)),
        pl.BlockSpec(
            (None, QUERY_HALO_BLOCK, LANES),
            lambda b, n, s, steps: (b, before(QUERY_HALO_BLOCK, s, steps), 0),
        ),
        pl.BlockSpec((None, 1, block), lambda b, n, s, steps: (b, 0, steps[0, s])),
        pl.BlockSpec((None, 1, LANES), lambda b, n, s, steps: (b, 0, before(LANES, s, steps))),
    ]


def _kernel(
    plan: Plan,
    steps: Ref,
    query: Ref,
    query_halo: Ref,
    key: Ref,
    key_halo: Ref,
    strip_matrix: Ref,
    expanded_key: Ref,
    value: Ref,
    *rest: Ref,
) -> None:
    refs = list(rest)
    query_columns = query_columns_halo = row = row_before = key_row = columns = None
    if plan.has_segments:
        query_columns, query_columns_halo, row, row_before, key_row, *refs, columns = refs
    out, statistics, *refs = refs
    rows, keys, logits, taps, strips, expanded, maximum, total, accumulator = refs
    block = plan.block
    i, j = steps[0, pl.program_id(2)], steps[1, pl.program_id(2)]

    def start_rows() -> None:
        """What a row of tiles is started with, on its first tile."""
        load_rows(rows, query_halo, query, i == 0)
        if plan.has_segments:
            load_rows(columns, query_columns_halo, query_columns, i == 0)
        expand_queries(plan, expanded, rows, columns)
        if plan.band:
            band.load_strip_keys(keys, key_halo, key, i == 0)
            memory = band.Strips(rows, keys, strip_matrix, logits, taps, columns, row, row_before)
            strips[...] = band.strip_logits(plan, memory, block)
        maximum[...] = jnp.full_like(maximum, MASK_VALUE)
        total[...] = jnp.zeros_like(total)
        accumulator[...] = jnp.zeros_like(accumulator)

    def attend(own: slice, keys: slice, offset: int | None) -> None:
        """Takes some keys of the tile into some of its rows.

        `offset` is the distance of the tile's first row from its first key where the band
        or the diagonal may be met, and None elsewhere.
        """
        width = keys.stop - keys.start
        s = plan.dot(side_by_side(expanded, own), expanded_key[keys], (1, 1))
        if offset is not None:
            distance = offset + own.start - keys.start
            s = band.edit_blocks(s, distance, functools.partial(replace, own.start))
        if columns is not None and key_row is not None:
            documents = columns[QUERY_HALO + own.start : QUERY_HALO + own.stop]
            s = jnp.where(to_width(documents, width) == key_row[:, keys], s, MASK_VALUE)
        previous = maximum[own]
        # Rows that have met no allowed key yet sum up weights of one here; the first
        # allowed key scales them to an exact zero.
        current = jnp.maximum(previous, jnp.max(s, axis=1, keepdims=True))
        p = jnp.exp2(s - to_width(current, width))
        rescale = jnp.exp2(previous - current)
        maximum[own] = current
        # Lanes are added up at the end of the row.
        lanes = [p[:, c : c + LANES] for c in range(0, width, LANES)]
        total[own] = functools.reduce(jnp.add, lanes, rescale * total[own])
        values = value[keys]
        accumulator[own] = accumulator[own] * to_width(rescale, plan.value_size) + plan.dot(
            p.astype(values.dtype), values, (1, 0)
        )

    def replace(first_row: int, r: int, _: int, distance: int, x: Array) -> Array:
        """A block of logits as the causal mask makes it."""
        if distance < 0:
            return jnp.full_like(x, MASK_VALUE)
        back = distance + band.rows_minus_lanes(x.shape)
        if plan.band:
            logits = strips[first_row + r : first_row + r + LANES]
            x = jnp.where(back < plan.band, logits, x)
        return x if distance else jnp.where(back >= 0, x, MASK_VALUE)

    def attend_tile(offset: int | None) -> None:
        for r in range(0, block, plan.forward_rows):
            own = slice(r, r + plan.forward_rows)
            last_key = own.stop if offset == 0 else block
            for c in range(0, last_key, plan.forward_columns):
                attend(own, slice(c, min(c + plan.forward_columns, last_key)), offset)

    @pl.when((j < i - 1) if plan.band else (j < i))
    def far_below_diagonal() -> None:
        attend_tile(None)

    if plan.band:

        @pl.when(j == i - 1)
        def just_below_diagonal() -> None:
            attend_tile(block)

    @pl.when(j == i)
    def on_diagonal() -> None:
        start_rows()
        attend_tile(0)

    @pl.when(j == 0)
    def finish_rows() -> None:
        denominator = jnp.broadcast_to(jnp.sum(total[...], axis=1, keepdims=True), total.shape)
        out[...] = (accumulator[...] / to_width(denominator, plan.value_size)).astype(out.dtype)
        lane = lax.broadcasted_iota(jnp.int32, (LANES, LANES), 1)
        for r in range(0, block, LANES):
            both = jnp.where(lane == 0, maximum[r : r + LANES], denominator[r : r + LANES])
            statistics[:, r : r + LANES] = both.T[:2]
