"""The convolution of a tile, two rows at a time."""

from collections.abc import Sequence

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import (
    LEAPS,
    MARGIN,
    PHASE,
    RUN,
    Plan,
    Taps,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.typing import Array, Float

PADDED = MARGIN + RUN + MARGIN
"""Registers of rows of one parity in memory, those around a window included."""

_INSIDE = slice(MARGIN, MARGIN + RUN)


def source_shape(plan: Plan) -> tuple[int, ...]:
    """Of the memory that maps are convolved from: by head, parity, and place in a run."""
    return plan.group, 2, PADDED, LEAPS, plan.columns


def put_rows(source: Ref, head: Array, x: Float[Array, "rows columns"]) -> None:
    """Writes the rows of a head."""
    x = x.reshape(2, RUN, LEAPS, x.shape[1]).astype(source.dtype)
    for parity in range(2):
        source[head, parity, _INSIDE] = x[parity]


def put_margins(taps: Taps, source: Ref, head: Array, *, transposed: bool = False) -> None:
    """Writes the rows around those of a head, as far as `convolve` reads them.

    The row after the last of a run is the first of the run, one leap further. Rows outside
    the window are zeros.
    """
    offsets = {_place(row)[1] for row in _rows(taps, transposed)}
    for offset in offsets - {0}:
        for place in range(abs(offset)):
            # Before the run, or after it.
            to = MARGIN - 1 - place if offset < 0 else MARGIN + RUN + place
            rows = source[head, :, to - RUN if offset > 0 else to + RUN].astype(jnp.float32)
            source[head, :, to] = _leap(rows, 1 if offset < 0 else -1).astype(source.dtype)


def _leap(rows: Float[Array, "2 leaps columns"], by: int) -> Array:
    """Moves rows by one leap, and zeros after them."""
    zeros = jnp.zeros_like(rows[:, :1])
    parts = [zeros, rows[:, :-1]] if by > 0 else [rows[:, 1:], zeros]
    return jnp.concatenate(parts, axis=1)


def convolve(
    plan: Plan,
    taps: Taps,
    source: Ref,
    head: Array,
    bands: Ref,
    *,
    transposed: bool = False,
    documents: Ref | None = None,
) -> Float[Array, "rows columns"]:
    """The convolution of a head's map, or what it does to gradients.

    Args:
      plan: of the call.
      taps: of the kernel.
      source: maps, with their margins.
      head: which of them.
      bands: ``[group, Cq, lanes, lanes]``.
      transposed: whether rows gather what they have been read by, instead of what they read.
      documents: those of the rows, ``[2, PADDED, LEAPS, lanes]``, where they matter.
    """
    if documents is None:
        return _both_parities(plan, taps, source, head, bands, transposed)
    return _each_parity(plan, taps, source, head, bands, transposed, documents)


def _both_parities(
    plan: Plan, taps: Taps, source: Ref, head: Array, bands: Ref, transposed: bool
) -> Array:
    """Rows ``2 * t`` and ``2 * t + 1`` as one, from all rows that either reads."""
    rows = _rows(taps, transposed)
    nothing = jnp.zeros((LANES, LANES), bands.dtype)

    def band(row: int, parity: int) -> Array:
        tap = _tap(taps, row - parity, transposed)
        return nothing if tap is None else bands[head, tap]

    # Bands that are to be transposed are joined the other way round and transposed together.
    inner, outer = (0, 1) if transposed else (1, 0)
    matrix = jnp.concatenate(
        [jnp.concatenate([band(row, 0), band(row, 1)], axis=inner) for row in rows], axis=outer
    )
    # [windows * PHASE, 2 * lanes]: windows below one another, parities side by side.
    result = plan.dot(patches(source, head, rows), matrix, (1, outer))
    return jnp.concatenate(
        [
            _windows_side_by_side(result[:, parity * LANES : (parity + 1) * LANES])
            for parity in range(2)
        ],
        axis=0,
    )


def _each_parity(
    plan: Plan,
    taps: Taps,
    source: Ref,
    head: Array,
    bands: Ref,
    transposed: bool,
    documents: Ref,
) -> Array:
    """Parities one after the other: their rows may be of different documents."""
    reached = _reached(taps, transposed)
    outer = 1 if transposed else 0
    matrix = jnp.concatenate(
        [bands[head, _tap(taps, row, transposed)] for row in reached], axis=outer
    )
    results = []
    for parity in range(2):
        rows = [row + parity for row in reached]
        same = [_documents_at(documents, row) == _documents_at(documents, parity) for row in rows]
        result = plan.dot(patches(source, head, rows, same), matrix, (1, outer))
        results.append(_windows_side_by_side(result))
    return jnp.concatenate(results, axis=0)


def band_gradients(
    plan: Plan,
    taps: Taps,
    source: Ref,
    gradient: Ref,
    head: Array,
    *,
    documents: Ref | None = None,
) -> list[Float[Array, "lanes lanes"]]:
    """The gradient of each of a head's bands.

    Args:
      plan: of the call.
      taps: of the kernel.
      source: maps that are convolved, with their margins.
      gradient: of the convolved maps, in the same layout.
      head: which of them.
      documents: see `convolve`.
    """

    def of_parity(parity: int) -> Array:
        return patches(gradient, head, [parity])

    reached = _reached(taps, transposed=False)
    if documents is None:
        read = _rows(taps, transposed=False)
        both = jnp.concatenate([of_parity(0), of_parity(1)], axis=1)
        products = plan.dot(patches(source, head, read), both, (0, 0))
        of_row = {row: products[k * LANES : (k + 1) * LANES] for k, row in enumerate(read)}
        return [of_row[row][:, :LANES] + of_row[row + 1][:, LANES:] for row in reached]
    sums = [jnp.zeros((LANES, LANES), jnp.float32)] * taps.queries
    for parity in range(2):
        rows = [row + parity for row in reached]
        same = [_documents_at(documents, row) == _documents_at(documents, parity) for row in rows]
        products = plan.dot(patches(source, head, rows, same), of_parity(parity), (0, 0))
        sums = [x + products[k * LANES : (k + 1) * LANES] for k, x in enumerate(sums)]
    return sums


def patches(
    source: Ref, head: Array, rows: Sequence[int], kept: Sequence[Array] | None = None
) -> Float[Array, "windows_rows taps_lanes"]:
    """Rows side by side, windows below one another, ``[windows * PHASE, len(rows) * lanes]``.

    Row t has row ``2 * t + row`` of the map for each of `rows`, where that is `kept`.
    """
    below = []
    for first in range(0, source.shape[-1], LANES):
        side = []
        for index, row in enumerate(rows):
            parity, offset = _place(row)
            places = slice(MARGIN + offset, MARGIN + offset + RUN)
            piece = source[head, parity, places, :, first : first + LANES].reshape(PHASE, LANES)
            side.append(piece if kept is None else jnp.where(kept[index], piece, 0))
        below.append(jnp.concatenate(side, axis=1))
    return jnp.concatenate(below, axis=0)


def _documents_at(documents: Ref, row: int) -> Array:
    """Document of row ``2 * t + row``, for each t."""
    parity, offset = _place(row)
    return documents[parity, MARGIN + offset : MARGIN + offset + RUN].reshape(PHASE, LANES)


def _windows_side_by_side(x: Array) -> Array:
    return jnp.concatenate(
        [x[w * PHASE : (w + 1) * PHASE] for w in range(x.shape[0] // PHASE)], axis=1
    )


def _place(row: int) -> tuple[int, int]:
    """Parity of row ``2 * t + row``, and how many rows of that parity it is from t."""
    return row % 2, row // 2


def _reached(taps: Taps, transposed: bool) -> range:
    """Rows that row 0 reads, or is read by."""
    return range(taps.queries) if transposed else range(1 - taps.queries, 1)


def _rows(taps: Taps, transposed: bool) -> range:
    """Rows that row 0 or row 1 reads, or is read by."""
    reached = _reached(taps, transposed)
    return range(reached.start, reached.stop + 1)


def _tap(taps: Taps, row: int, transposed: bool) -> int | None:
    """The tap that connects row 0 with a row; None where there is none."""
    tap = taps.queries - 1 - row if transposed else taps.queries - 1 + row
    return tap if 0 <= tap < taps.queries else None
