"""Expanded queries: the rows that the query taps of each row read, side by side."""

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.pallas_tpu.plan import QUERY_HALO, Plan, Ref, to_width
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
    """Writes ``[block, Cq * H]`` from the rows and, in packed rows, their documents."""
    size = expanded.shape[0]
    for a in range(plan.query_taps):
        tap = rows[tap_rows(plan, a, 0, size)]
        if columns is not None:
            same = to_width(tap_in_document(plan, columns, a, 0, size), plan.head_size)
            tap = jnp.where(same, tap, 0)
        expanded[:, a * plan.head_size : (a + 1) * plan.head_size] = tap.astype(expanded.dtype)
