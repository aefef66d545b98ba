"""The backward kernel: every gradient in one pass over the tiles.

Tiles are transposed, keys by queries: then statistics of query rows lie along lanes, and
only the product for the queries contracts over rows. Keys are the outer loop. Gradients
of expanded keys gather over one column of tiles and are brought back to keys at its end;
gradients of queries gather in memory for the whole sequence.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, compiler_params, shared
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head import band
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.expand_keys import (
    in_document,
    key_window_specs,
    load_key_window,
    segment_specs,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.forward import document_specs, row_specs
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import (
    KEY_HALO,
    LN_2,
    QUERY_HALO,
    QUERY_HALO_BLOCK,
    STRIP,
    WINDOW,
    Plan,
    causal_steps,
    side_by_side,
    to_width,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.queries import (
    expand_queries,
    load_rows,
    tap_in_document,
    tap_rows,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.segments import SegmentLayouts
from mta_jax.typing import Array, Float

MARGIN = STRIP
"""Rows before the first and after the last that windows of gradients may cover."""


def backward(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K T H"],
    value: Float[Array, "B V T Hv"],
    expanded_key: Float[Array, "B N T CqH"],
    expansion: Float[Array, "N rows window"],
    strip_matrix: Float[Array, "N rows lanes"],
    segments: SegmentLayouts | None,
    dout: Float[Array, "B N T Hv"],
    maximum: Float[Array, "B N 1 T"],
    delta: Float[Array, "B N 1 T"],
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients per query head, in float32.

    `maximum` is that of the forward kernel, whose denominators `dout` has been divided by;
    `delta` is the sum of ``dout * out`` per row.

    Returns:
      Those of queries and keys ``[B, N, T, H]`` and values ``[B, N, T, Hv]``, and those of
      `expansion` and `strip_matrix`, ``[B, N, rows, ...]``.
    """
    block = plan.block
    steps = causal_steps(plan.length // block, keys_outside=True)
    specs = row_specs(plan, block)
    kv_group = plan.num_heads // plan.num_kv_heads
    value_group = plan.num_heads // plan.num_values
    per_head = [
        pl.BlockSpec((None, *x.shape[1:]), lambda b, n, s, steps: (n, 0, 0))
        for x in (expansion, strip_matrix)
    ]
    statistic = pl.BlockSpec((None, None, 1, block), lambda b, n, s, steps: (b, n, 0, steps[0, s]))
    in_specs = [
        specs(query_rows=True),
        specs(query_rows=True, halo=QUERY_HALO_BLOCK),
        specs(query_rows=True, group=kv_group),
        specs(query_rows=True, group=kv_group, halo=STRIP),
        *key_window_specs(
            plan, block, lambda b, n, s, steps: (b, shared(n, kv_group), steps[1, s])
        ),
        *per_head,
        specs(query_rows=False, size=plan.expanded_size),
        specs(query_rows=False, group=value_group, size=plan.value_size),
        specs(query_rows=True, size=plan.value_size),
        statistic,
        statistic,
    ]
    operands = [query, query, key, key, key, key, key, expansion, strip_matrix, expanded_key]
    operands += [value, dout, maximum, delta]
    scratch = [
        pltpu.VMEM((QUERY_HALO + block, plan.head_size), jnp.float32),
        pltpu.VMEM((STRIP + block, plan.head_size), plan.dtype),
        pltpu.VMEM((block // STRIP, band.ROWS, LANES), jnp.float32),
        pltpu.VMEM((plan.query_taps, block, LANES), plan.dtype),
        pltpu.VMEM((plan.expanded_size // LANES, block, LANES), plan.dtype),
        pltpu.VMEM((block + 2 * KEY_HALO, plan.head_size), plan.dtype),
        pltpu.VMEM((block, plan.expanded_size), jnp.float32),
        pltpu.VMEM((QUERY_HALO + block, plan.head_size), jnp.float32),
        pltpu.VMEM((LANES, LANES), jnp.float32),
    ]
    if segments is not None:
        in_specs += document_specs(block)
        operands += [segments.columns, segments.columns, segments.row, segments.row]
        in_specs += segment_specs(block, lambda b, n, s, steps: (b, steps[1, s]))
        operands += [segments.columns, segments.windows]
        scratch.append(pltpu.VMEM((QUERY_HALO + block, LANES), jnp.int32))

    def whole(*shape: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        """One array per head that stays in memory while its tiles are visited."""
        full = (plan.batch, plan.num_heads, *shape)
        spec = pl.BlockSpec((None, None, *shape), lambda b, n, s, steps: (b, n, 0, 0))
        return spec, jax.ShapeDtypeStruct(full, jnp.float32)

    margins = plan.length + 2 * MARGIN
    values = (plan.batch, plan.num_heads, plan.length, plan.value_size)
    out_specs, out_shape = zip(
        whole(margins, plan.head_size),
        whole(margins, plan.head_size),
        (
            specs(query_rows=False, size=plan.value_size),
            jax.ShapeDtypeStruct(values, jnp.float32),
        ),
        whole(*expansion.shape[1:]),
        whole(*strip_matrix.shape[1:]),
        strict=True,
    )
    dquery, dkey, dvalue, dexpansion, dstrip_matrix = pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.batch, plan.num_heads, steps.shape[1]),
            in_specs=in_specs,
            out_specs=list(out_specs),
            scratch_shapes=scratch,
        ),
        out_shape=list(out_shape),
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        interpret=plan.interpret,
        name="mta_backward",
    )(steps, *operands)
    inside = slice(MARGIN, MARGIN + plan.length)
    return dquery[:, :, inside], dkey[:, :, inside], dvalue, dexpansion, dstrip_matrix


def _kernel(
    plan: Plan,
    steps: Ref,
    query: Ref,
    query_halo: Ref,
    diagonal_key: Ref,
    diagonal_key_halo: Ref,
    key_before: Ref,
    key: Ref,
    key_after: Ref,
    expansion: Ref,
    strip_matrix: Ref,
    expanded_key: Ref,
    value: Ref,
    dout: Ref,
    maximum: Ref,
    delta: Ref,
    *rest: Ref,
) -> None:
    refs = list(rest)
    query_columns = query_columns_halo = row = row_before = columns = None
    key_columns = key_windows = None
    if plan.has_segments:
        query_columns, query_columns_halo, row, row_before, *refs, columns = refs
        key_columns, key_windows, *refs = refs
    dquery, dkey, dvalue, dexpansion, dstrip_matrix, *refs = refs
    rows, strip_keys, logits, taps, expanded, window, dexpanded, drows, dcorner = refs
    block = plan.block
    num_blocks = plan.length // block
    i, j = steps[0, pl.program_id(2)], steps[1, pl.program_id(2)]
    memory = band.Strips(rows, strip_keys, strip_matrix, logits, taps, columns, row, row_before)

    @pl.when(pl.program_id(2) == 0)
    def start_head() -> None:
        for ref in (dquery, dkey, dexpansion, dstrip_matrix, dcorner):
            ref[...] = jnp.zeros_like(ref)

    @pl.when(i == j)
    def start_column() -> None:
        dexpanded[...] = jnp.zeros_like(dexpanded)
        dvalue[...] = jnp.zeros_like(dvalue)

    def attend(offset: int | None) -> None:
        """Takes one tile of keys by queries into every gradient.

        `offset` is the distance of its first query from its first key where the tile
        meets the band or the diagonal, and None elsewhere.
        """
        load_rows(rows, query_halo, query, i == 0)
        if plan.has_segments:
            load_rows(columns, query_columns_halo, query_columns, i == 0)
        expand_queries(plan, expanded, rows, columns)
        drows[...] = jnp.zeros_like(drows)
        # On the diagonal, queries are taken in parts, each with the keys up to its last.
        width = min(2 * LANES, block) if offset == 0 else block
        logits_of_band = None if offset is None or not plan.band else strips(offset)
        parts: dict[int, Array] = {}
        for first in range(0, block, width):
            size = first + width if offset == 0 else block
            distance = None if offset is None else offset + first
            attend_part(
                slice(0, size), slice(first, first + width), distance, logits_of_band, parts
            )
        if parts and offset:
            dcorner[...] = parts[0]
        elif parts:
            parts[0] += dcorner[...]
            dstrips = jnp.concatenate([parts[c] for c in range(0, block, LANES)], axis=0)
            keys_here = dkey.at[pl.ds(pl.multiple_of(i * block, LANES), STRIP + block)]
            dstrip_matrix[...] += band.strip_gradients(plan, memory, dstrips, drows, keys_here)
        start = pl.multiple_of(MARGIN - QUERY_HALO + i * block, QUERY_HALO)
        dquery[pl.ds(start, QUERY_HALO + block)] += drows[...]

    def attend_part(
        keys: slice,
        queries: slice,
        distance: int | None,
        logits_of_band: Array | None,
        parts: dict[int, Array],
    ) -> None:
        """Takes some queries and keys of a tile into the gradients.

        What the band is due goes to `parts`, by the first query of each block.
        """
        own = side_by_side(expanded, queries)
        s = plan.dot(expanded_key[keys], own, (1, 1))
        if distance is not None:

            def mask(_: int, c: int, distance: int, x: Array) -> Array:
                return _masked(plan, logits_of_band, queries.start + c, distance, x)

            s = band.edit_blocks(s, distance, mask, keys_first=True)
        if key_columns is not None and row is not None:
            documents = to_width(key_columns[keys], s.shape[1])
            s = jnp.where(documents == row[:, queries], s, MASK_VALUE)
        p = jnp.exp2(s - maximum[:, queries])
        gradient = dout[queries]
        dvalue[keys] += plan.dot(p.astype(dout.dtype), gradient, (1, 0))
        ds = p * (plan.dot(value[keys], gradient, (1, 1)) - delta[:, queries])
        if logits_of_band is not None and distance is not None:

            def split(_: int, c: int, distance: int, x: Array) -> Array:
                if distance < 0:
                    return x
                in_band = _in_band(plan, distance)
                part = jnp.where(in_band, x, 0).T
                c += queries.start
                parts[c] = parts[c] + part if c in parts else part
                return jnp.where(in_band, 0, x)

            ds = band.edit_blocks(ds, distance, split, keys_first=True)
        ds = ds.astype(own.dtype)
        dexpanded[keys] += plan.dot(ds, own, (1, 0))
        dtaps = plan.dot(ds, expanded_key[keys], (0, 0)) * LN_2
        first, size = queries.start, queries.stop - queries.start
        for a in range(plan.query_taps):
            dtap = dtaps[:, a * plan.head_size : (a + 1) * plan.head_size]
            if columns is not None:
                same = tap_in_document(plan, columns, a, first, size)
                dtap = jnp.where(to_width(same, plan.head_size), dtap, 0)
            drows[tap_rows(plan, a, first, size)] += dtap

    def strips(offset: int) -> Array:
        """Logits of the band, keys by queries; below the diagonal only its corner."""
        band.load_strip_keys(strip_keys, diagonal_key_halo, diagonal_key, i == 0)
        return band.strip_logits(plan, memory, LANES if offset else block).T

    def finish_column() -> None:
        """Brings the gradient of expanded keys back to keys and taps."""
        load_key_window(window, key_before, key, key_after, j == 0, j == num_blocks - 1)

        size = plan.head_size
        num_parts = block // LANES
        # Side by side as in `expand_keys`.
        joined = 1 if plan.has_segments else min(num_parts, max(1, 2 * LANES // size))
        matrix = expansion[...]
        for first in range(0, num_parts, joined):
            parts = range(first, first + joined)
            taps = [
                jnp.concatenate(
                    [
                        dexpanded[part * LANES : (part + 1) * LANES, a * size : (a + 1) * size]
                        for part in parts
                    ],
                    axis=1,
                )
                for a in range(plan.query_taps)
            ]
            dtaps = (jnp.concatenate(taps, axis=0) * plan.scale).astype(matrix.dtype)
            windows = [window[part * LANES : part * LANES + WINDOW] for part in parts]
            dmatrix = plan.dot(dtaps, jnp.concatenate(windows, axis=1), (1, 1))
            if plan.has_segments:
                same = in_document(plan, key_columns, key_windows, first)
                matrix = jnp.where(same, expansion[...], jnp.zeros_like(matrix))
                dmatrix = jnp.where(same, dmatrix, 0)
            dexpansion[...] += dmatrix
            dwindows = plan.dot(matrix, dtaps, (0, 0))
            for part in parts:
                start = MARGIN - KEY_HALO + j * block + part * LANES
                place = pl.ds(pl.multiple_of(start, KEY_HALO), WINDOW)
                lanes = slice((part - first) * size, (part - first + 1) * size)
                dkey[place] += dwindows[:, lanes]

    @pl.when((i - j > 1) if plan.band else (i > j))
    def far_below_diagonal() -> None:
        attend(None)

    if plan.band:

        @pl.when(i - j == 1)
        def just_below_diagonal() -> None:
            attend(block)

    @pl.when(i == j)
    def on_diagonal() -> None:
        attend(0)

    pl.when(i == num_blocks - 1)(finish_column)


def _masked(plan: Plan, strips: Array | None, c: int, distance: int, x: Array) -> Array:
    """A block of logits with its band replaced and its future masked."""
    if distance < 0:
        return jnp.full_like(x, MASK_VALUE)
    if strips is not None:
        x = jnp.where(_in_band(plan, distance), strips[:, c : c + LANES], x)
    return x if distance else jnp.where(_back(0) >= 0, x, MASK_VALUE)


def _in_band(plan: Plan, distance: int) -> Array:
    back = _back(distance)
    return (back >= 0) & (back < plan.band)


def _back(distance: int) -> Array:
    """How far behind its query each key of a block is, keys by queries."""
    return distance - band.rows_minus_lanes((LANES, LANES))
