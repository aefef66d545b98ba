"""Expanded queries: the rows that the query taps of each row read, side by side."""

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import QUERY_HALO, Plan
from mta_jax.typing import Array


def load_rows(rows: Ref, halo: Ref, block: Ref, is_first: Array) -> None:
    """Joins the `QUERY_HALO` rows before a block and the block; zeros before the first.

    `rows` has 32 bits per entry, in which rows can be read at any offset.
    """
    before = halo[halo.shape[0] - QUERY_HALO :].astype(rows.dtype)
    rows[:QUERY_HALO] = jnp.where(is_first, jnp.zeros_like(before), before)
    rows[QUERY_HALO:] = block[...].astype(rows.dtype)


def tap_rows(plan: Plan, tap: int, start: int, size: int) -> slice:
    """Where `load_rows` put what a tap of the rows from `start` on reads."""
    first = QUERY_HALO + start - (plan.query_taps - 1) + tap
    return slice(first, first + size)


def tap_in_document(plan: Plan, columns: Ref, tap: int, start: int, size: int) -> Array:
    """Whether the row that a tap reads is of the document of its row, ``[size, LANES]``."""
    own = columns[QUERY_HALO + start : QUERY_HALO + start + size]
    return columns[tap_rows(plan, tap, start, size)] == own


def expand_queries(plan: Plan, expanded: Ref, rows: Ref, columns: Ref | None) -> None:
    """Writes the taps of each row side by side, ``[expanded_size / LANES, block, LANES]``.

    `columns` are the documents of packed rows.
    """
    size = expanded.shape[1]
    for c in range(expanded.shape[0]):
        pieces = []
        lane = c * LANES
        while lane < (c + 1) * LANES:
            tap, first = divmod(lane, plan.head_size)
            if tap == plan.query_taps:
                pieces.append(jnp.zeros((size, (c + 1) * LANES - lane), rows.dtype))
                break
            last = min(plan.head_size, first + (c + 1) * LANES - lane)
            piece = rows[tap_rows(plan, tap, 0, size), first:last]
            if columns is not None:
                same = tap_in_document(plan, columns, tap, 0, size)[:, : last - first]
                piece = jnp.where(same, piece, 0)
            pieces.append(piece)
            lane += last - first
        expanded[c] = jnp.concatenate(pieces, axis=1).astype(expanded.dtype)
