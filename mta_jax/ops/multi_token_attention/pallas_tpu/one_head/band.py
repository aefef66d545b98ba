"""Convolved logits in the band below the diagonal, where the causal mask cuts taps off.

There the expanded inner product would read logits of future keys, which count as zero.
These few diagonals are computed from masked logits instead, and replace it: nothing is
subtracted, so no trace of a future key is left, and gradients are exactly zero.

A strip is `STRIP` rows and the `LANES` keys that end with them, the key in lane
``key % LANES``: so a strip lines up with the logits of every block it touches.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import (
    LN_2,
    QUERY_HALO,
    STRIP,
    Plan,
    side_by_side,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.queries import tap_in_document, tap_rows
from mta_jax.typing import Array

ROWS = QUERY_HALO + STRIP
"""Rows of logits that the rows of one strip read."""


@dataclasses.dataclass(frozen=True)
class Strips:
    """Memory that the strips of one block of rows are made from and in.

    The last three are documents, given for packed rows only.
    """

    queries: Ref  # [QUERY_HALO + block, H]
    keys: Ref  # [STRIP + block, H]
    matrix: Ref  # [Cq * LANES, LANES]
    logits: Ref  # [block / STRIP, ROWS, LANES], float32
    taps: Ref  # [Cq, block, LANES]
    columns: Ref | None = None  # [QUERY_HALO + block, LANES]
    row: Ref | None = None  # [1, block]
    row_before: Ref | None = None  # [1, LANES]


def load_strip_keys(keys: Ref, halo: Ref, block: Ref, is_first: Array) -> None:
    """Joins the `STRIP` keys before a block and the block; zeros before the first."""
    keys[:STRIP] = jnp.where(is_first, jnp.zeros_like(halo), halo[...])
    keys[STRIP:] = block[...]


def strip_logits(plan: Plan, strips: Strips, size: int) -> Array:
    """Convolved logits of the first `size` rows in units of log 2, ``[size, LANES]``.

    Valid at the ``0 <= i - j < plan.band`` diagonals. Leaves the logits that each tap
    read in `strips.taps`.
    """
    for strip in range(size // STRIP):
        queries, keys = _operands(strips, strip)
        logits = plan.dot(queries, keys, (1, 1)) * plan.log2_scale
        strips.logits[strip] = jnp.where(_mask(plan, strips, strip), logits, 0)
        start = strip * STRIP
        for a in range(plan.query_taps):
            tap = strips.logits[strip, tap_rows(plan, a, 0, STRIP)]
            if strips.columns is not None:
                tap = jnp.where(tap_in_document(plan, strips.columns, a, start, STRIP), tap, 0)
            strips.taps[a, start : start + STRIP] = tap.astype(strips.taps.dtype)
    return plan.dot(side_by_side(strips.taps, slice(0, size)), strips.matrix[...], (1, 0))


def strip_gradients(plan: Plan, strips: Strips, dstrips: Array, dqueries: Ref, dkeys: Ref) -> Array:
    """Takes the gradient of strips, zero outside the band, to what they were made from.

    Adds to dqueries and dkeys, which lie like `strips.queries` and `strips.keys`.

    Returns:
      The gradient of `strips.matrix`.
    """
    dstrips = dstrips.astype(strips.taps.dtype)
    taps = side_by_side(strips.taps, slice(None))
    dmatrix = plan.dot(taps, dstrips, (0, 0)) * LN_2
    dtaps = plan.dot(dstrips, strips.matrix[...], (1, 1))
    for strip in range(dstrips.shape[0] // STRIP):
        start = strip * STRIP
        strips.logits[strip] = jnp.zeros(strips.logits.shape[1:], jnp.float32)
        for a in range(plan.query_taps):
            dtap = dtaps[start : start + STRIP, a * LANES : (a + 1) * LANES]
            if strips.columns is not None:
                dtap = jnp.where(tap_in_document(plan, strips.columns, a, start, STRIP), dtap, 0)
            strips.logits[strip, tap_rows(plan, a, 0, STRIP)] += dtap
        dlogits = jnp.where(_mask(plan, strips, strip), strips.logits[strip], 0) * plan.scale
        dlogits = dlogits.astype(strips.taps.dtype)
        queries, keys = _operands(strips, strip)
        dqueries[start : start + ROWS] += plan.dot(dlogits, keys, (1, 0))
        dwindow = plan.dot(dlogits, queries, (0, 0))
        if strip % 2 == 0:
            dwindow = _swap_halves(dwindow)
        dkeys[start : start + LANES] += dwindow
    return dmatrix


def edit_blocks(
    x: Array,
    offset: int,
    edit: Callable[[int, int, int, Array], Array],
    *,
    keys_first: bool = False,
) -> Array:
    """Edits the blocks of a tile that meet the band or lie above the diagonal.

    `edit` takes the first row and lane of a block, the distance of its first query from
    its first key, and the block. `offset` is that distance for the whole tile. Tiles are
    queries by keys, or the other way round where `keys_first`.
    """
    stripes = []
    for r in range(0, x.shape[0], LANES):
        blocks = []
        for c in range(0, x.shape[1], LANES):
            block = x[r : r + LANES, c : c + LANES]
            distance = offset + (c - r if keys_first else r - c)
            blocks.append(edit(r, c, distance, block) if distance <= LANES else block)
        stripes.append(jnp.concatenate(blocks, axis=1))
    return jnp.concatenate(stripes, axis=0)


def rows_minus_lanes(shape: tuple[int, ...]) -> Array:
    """Row minus lane of every entry."""
    row = lax.broadcasted_iota(jnp.int32, shape, 0)
    return row - lax.broadcasted_iota(jnp.int32, shape, 1)


def _operands(strips: Strips, strip: int) -> tuple[Array, Array]:
    """Queries and keys of one strip, the keys in the order of its lanes."""
    start = strip * STRIP
    queries = strips.queries[start : start + ROWS].astype(strips.keys.dtype)
    keys = strips.keys[start : start + LANES]
    return queries, _swap_halves(keys) if strip % 2 == 0 else keys


def _swap_halves(x: Array) -> Array:
    return jnp.concatenate([x[STRIP:], x[:STRIP]], axis=0)


def _mask(plan: Plan, strips: Strips, strip: int) -> Array:
    """Logits of a strip that its outputs may read, ``[ROWS, LANES]``."""
    row = lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 0) - QUERY_HALO
    lane = lax.broadcasted_iota(jnp.int32, (ROWS, LANES), 1)
    # Both counted from the first row of the strip.
    key = lane - STRIP if strip % 2 else jnp.where(lane < STRIP, lane, lane - LANES)
    mask = (row >= key) & (row - key < plan.diagonals)
    if strips.columns is None or strips.row is None or strips.row_before is None:
        return mask
    group = strip * STRIP // LANES * LANES
    documents = strips.row[:, group : group + LANES]
    if strip % 2 == 0:
        before = strips.row[:, group - LANES : group] if group else strips.row_before[...]
        documents = jnp.where(lane[:1] < STRIP, documents, before)
    start = strip * STRIP
    return mask & (strips.columns[start : start + ROWS] == documents)
