"""The backward kernel: every gradient in one pass over the tiles.

Tiles are transposed, keys by queries: then statistics of query rows lie along lanes, and
only the product for the queries contracts over rows. Keys are the outer loop. Gradients
of expanded keys gather over one column of tiles and are brought back to keys at its end;
gradients of queries gather in memory for the whole sequence.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.pallas_tpu import band
from mta_jax.ops.multi_token_attention.pallas_tpu.expand_keys import (
    in_document,
    key_window_specs,
    load_key_window,
    segment_specs,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.forward import document_specs, row_specs
from mta_jax.ops.multi_token_attention.pallas_tpu.plan import (
    KEY_HALO,
    LANES,
    QUERY_HALO,
    QUERY_HALO_BLOCK,
    STRIP,
    WINDOW,
    Plan,
    Ref,
    causal_steps,
    to_width,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.queries import (
    expand_queries,
    load_rows,
    tap_in_document,
    tap_rows,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.segments import SegmentLayouts
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
    lse: Float[Array, "B N 1 T"],
    delta: Float[Array, "B N 1 T"],
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients per query head, in float32.

    Args:
      delta: sum of ``dout * out`` per row.

    Returns:
      Those of queries and keys ``[B, N, T, H]`` and values ``[B, N, T, Hv]``, and those of
      `expansion` and `strip_matrix`, ``[B, N, rows, ...]``.
    """
    block = plan.backward_block
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
        *key_window_specs(plan, block, lambda b, n, s, steps: (b, n // kv_group, steps[1, s])),
        *per_head,
        specs(query_rows=False, size=plan.expanded_size),
        specs(query_rows=False, group=value_group, size=plan.value_size),
        specs(query_rows=True, size=plan.value_size),
        statistic,
        statistic,
    ]
    operands = [query, query, key, key, key, key, key, expansion, strip_matrix, expanded_key]
    operands += [value, dout, lse, delta]
    expanded = (block, plan.expanded_size)
    scratch = [
        pltpu.VMEM((QUERY_HALO + block, plan.head_size), jnp.float32),
        pltpu.VMEM((STRIP + block, plan.head_size), plan.dtype),
        pltpu.VMEM((band.ROWS, LANES), jnp.float32),
        pltpu.VMEM((block, plan.query_taps * LANES), plan.dtype),
        pltpu.VMEM(expanded, plan.dtype),
        pltpu.VMEM((block + 2 * KEY_HALO, plan.head_size), plan.dtype),
        pltpu.VMEM(expanded, jnp.float32),
        pltpu.VMEM((QUERY_HALO + block, plan.head_size), jnp.float32),
        pltpu.VMEM((plan.query_taps * LANES, plan.head_size), plan.dtype),
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
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=plan.vmem_limit_bytes,
        ),
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
    lse: Ref,
    delta: Ref,
    *rest: Ref,
) -> None:
    key_segments: list[Ref] = []
    if plan.has_segments:
        query_columns, query_columns_halo, row, row_before, *rest, columns = rest
        key_segments, rest = rest[:2], rest[2:]
    else:
        query_columns = query_columns_halo = row = row_before = columns = None
    dquery, dkey, dvalue, dexpansion, dstrip_matrix, *rest = rest
    rows, strip_keys, logits, taps, expanded, window, dexpanded, drows, dtaps, dcorner = rest
    block = plan.backward_block
    num_blocks = plan.length // block
    i, j = steps[0, pl.program_id(2)], steps[1, pl.program_id(2)]
    memory = band.Strips(
        rows, strip_keys, strip_matrix, logits, taps, columns, row, row_before
    )

    @pl.when(pl.program_id(2) == 0)
    def start_head() -> None:
        for ref in (dquery, dkey, dexpansion, dstrip_matrix, dcorner):
            ref[...] = jnp.zeros_like(ref)

    @pl.when(i == j)
    def start_column() -> None:
        dexpanded[...] = jnp.zeros_like(dexpanded)
        dvalue[...] = jnp.zeros_like(dvalue)

    load_rows(rows, query_halo, query, i == 0)
    if plan.has_segments:
        load_rows(columns, query_columns_halo, query_columns, i == 0)
    expand_queries(plan, expanded, rows, columns)

    def attend(offset: int | None) -> None:
        """Takes one tile of keys by queries into every gradient.

        `offset` is the distance of its first query from its first key where the tile
        meets the band or the diagonal, and None elsewhere.
        """
        s = plan.dot(expanded_key[...], expanded[...], (1, 1))
        if offset is not None:
            s = _edit(s, offset, functools.partial(_masked, plan, strips(offset)))
        if plan.has_segments:
            s = jnp.where(to_width(key_segments[0][...], block) == row[...], s, MASK_VALUE)
        p = jnp.exp2(s - lse[...])
        dvalue[...] += plan.dot(p.astype(dout.dtype), dout[...], (1, 0))
        dp = plan.dot(value[...], dout[...], (1, 1))
        ds = p * (dp - delta[...])
        drows[...] = jnp.zeros_like(drows)
        if offset is not None and plan.band:
            ds = split_off_band(ds, offset)
        ds = ds.astype(expanded.dtype)
        dexpanded[...] += plan.dot(ds, expanded[...], (1, 0))
        all_taps = plan.dot(ds, expanded_key[...], (0, 0)) * (plan.scale / plan.log2_scale)
        for a in range(plan.query_taps):
            tap = all_taps[:, a * plan.head_size : (a + 1) * plan.head_size]
            if columns is not None:
                same = to_width(tap_in_document(plan, columns, a, 0, block), plan.head_size)
                tap = jnp.where(same, tap, 0)
            drows[tap_rows(plan, a, 0, block)] += tap
        start = pl.multiple_of(MARGIN - QUERY_HALO + i * block, QUERY_HALO)
        dquery[pl.ds(start, QUERY_HALO + block)] += drows[...]

    def strips(offset: int) -> Array | None:
        """Logits of the band, keys by queries; below the diagonal only its corner."""
        if not plan.band:
            return None
        band.load_strip_keys(strip_keys, diagonal_key_halo, diagonal_key, i == 0)
        return band.strip_logits(plan, memory, LANES if offset else block).T

    def split_off_band(ds: Array, offset: int) -> Array:
        """Takes the band out of the gradient of the logits and into all behind it."""
        parts: dict[int, Array] = {0: dcorner[...]}

        def split(c: int, distance: int, x: Array) -> Array:
            if distance < 0:
                return x
            in_band = _in_band(plan, distance)
            part = jnp.where(in_band, x, 0).T
            parts[c] = parts[c] + part if c in parts else part
            return jnp.where(in_band, 0, x)

        if offset:
            parts[0] = jnp.zeros_like(dcorner)
            ds = _edit(ds, offset, split)
            dcorner[...] = parts[0]
            return ds
        ds = _edit(ds, offset, split)
        dstrips = jnp.concatenate([parts[c] for c in range(0, block, LANES)], axis=0)
        keys_here = dkey.at[pl.ds(pl.multiple_of(i * block, LANES), STRIP + block)]
        dstrip_matrix[...] += band.strip_gradients(plan, memory, dstrips, drows, keys_here)
        return ds

    def finish_column() -> None:
        """Brings the gradient of expanded keys back to keys and taps."""
        load_key_window(window, key_before, key, key_after, j == 0, j == num_blocks - 1)

        def contract(part: Array, _: None) -> None:
            start = pl.multiple_of(part * LANES, LANES)
            for a in range(plan.query_taps):
                tap = dexpanded[
                    pl.ds(start, LANES), a * plan.head_size : (a + 1) * plan.head_size
                ]
                dtaps[a * LANES : (a + 1) * LANES] = (tap * plan.scale).astype(dtaps.dtype)
            matrix = expansion[...]
            dmatrix = plan.dot(dtaps[...], window[pl.ds(start, WINDOW)], (1, 1))
            if plan.has_segments:
                same = in_document(plan, key_segments[0], key_segments[1], part)
                matrix = jnp.where(same, matrix, jnp.zeros_like(matrix))
                dmatrix = jnp.where(same, dmatrix, 0)
            dexpansion[...] += dmatrix
            place = pl.multiple_of(MARGIN - KEY_HALO + j * block + start, KEY_HALO)
            dkey[pl.ds(place, WINDOW)] += plan.dot(matrix, dtaps[...], (0, 0))

        lax.fori_loop(0, block // LANES, contract, None)

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


def _edit(x: Array, offset: int, edit: Callable[[int, int, Array], Array]) -> Array:
    """Edits the blocks of a tile that meet the band or lie above the diagonal.

    `edit` takes the first query of a block, the distance of that query from its first key,
    and the block, ``[keys, queries]``.
    """
    stripes = []
    for r in range(0, x.shape[0], LANES):
        blocks = []
        for c in range(0, x.shape[1], LANES):
            block = x[r : r + LANES, c : c + LANES]
            distance = offset + c - r
            blocks.append(edit(c, distance, block) if distance <= LANES else block)
        stripes.append(jnp.concatenate(blocks, axis=1))
    return jnp.concatenate(stripes, axis=0)


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
    """How far behind its query each key of a block is."""
    key = lax.broadcasted_iota(jnp.int32, (LANES, LANES), 0)
    return distance + lax.broadcasted_iota(jnp.int32, (LANES, LANES), 1) - key
