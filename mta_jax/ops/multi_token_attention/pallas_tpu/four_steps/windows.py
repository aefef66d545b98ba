"""Rows of queries as windows that overlap, sorted as `plan` says, and back."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import (
    LEAPS,
    ROWS,
    RUN,
    Plan,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import Position
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.typing import Array, Float

HEADS_AT_ONCE = 4


def row_windows(plan: Plan, x: Float[Array, "B N T"]) -> Float[Array, "B N windows rows"]:
    """One number per row of each window, zeros outside the sequence."""
    stride = plan.queries
    overlap = ROWS - stride
    after = plan.query_windows * stride + overlap - 2 * RUN - x.shape[2]
    x = jnp.pad(x, ((0, 0), (0, 0), (2 * RUN, max(after, 0))))

    def strides(x: Array) -> Array:
        x = x[:, :, : plan.query_windows * stride]
        return x.reshape(*x.shape[:2], plan.query_windows, stride)

    ahead = jnp.pad(x[:, :, stride:], ((0, 0), (0, 0), (0, stride)))
    x = jnp.concatenate([strides(x), strides(ahead)[..., :overlap]], axis=3)
    by_place = x.reshape(*x.shape[:3], LEAPS, RUN, 2)
    return jnp.moveaxis(by_place, 3, 5).swapaxes(3, 4).reshape(x.shape)


def from_row_windows(plan: Plan, x: Float[Array, "B N windows rows"]) -> Float[Array, "B N T"]:
    """Of every window the rows that it owns."""
    by_parity = x.reshape(*x.shape[:3], 2, RUN, LEAPS)[..., plan.owned_leaps]
    x = jnp.moveaxis(by_parity.swapaxes(3, 4), 5, 3).reshape(*x.shape[:2], -1)
    return x[:, :, : plan.length]


def unsorted_memory(size: int) -> Any:
    """Memory for the rows of some heads, ``[HEADS_AT_ONCE, registers, ROWS, columns]``.

    In float32, as packed rows cannot be read one by one, and no wider than a register, as only
    then can rows be read that are no neighbours.
    """
    shape = (HEADS_AT_ONCE, -(-size // LANES), ROWS, min(size, LANES))
    return pltpu.VMEM(shape, jnp.float32)


def read_rows(unsorted: Ref, rows: Any) -> Float[Array, "rows size"]:
    """Some rows of a head, from its ``[registers, ROWS, columns]``."""
    return jnp.concatenate([unsorted.at[k][rows] for k in range(unsorted.shape[0])], axis=1)


def write_rows(unsorted: Ref, rows: Any, x: Float[Array, "rows size"]) -> None:
    """Writes some rows of a head, to its ``[registers, ROWS, columns]``."""
    width = unsorted.shape[2]
    for k in range(unsorted.shape[0]):
        unsorted.at[k][rows] = x[:, k * width : (k + 1) * width]


def sort_rows(plan: Plan, at: Position, parts: Sequence[Ref], unsorted: Ref, rows: Ref) -> None:
    """Sorts the rows of a window of all heads, zeros outside the sequence.

    Args:
      plan: of the call.
      at: the window.
      parts: of the window, as `query_specs` fetches them, ``[group, ..., size]``.
      unsorted: of `unsorted_memory`.
      rows: where they are written, ``[group, ROWS, size]``.
    """
    size = rows.shape[2]
    position = at.first_query(plan) + lax.broadcasted_iota(jnp.int32, (ROWS, size), 0)
    is_inside = (position >= 0) & (position < plan.length)

    def body(heads: list[Array]) -> None:
        for k, n in enumerate(heads):
            x = jnp.concatenate([part[n].astype(jnp.float32) for part in parts], axis=0)
            write_rows(unsorted.at[k], slice(None), jnp.where(is_inside, x, 0))
        for k, n in enumerate(heads):
            for place in range(2 * RUN):
                x = read_rows(unsorted.at[k], _rows_at(place))
                rows[n, place * LEAPS : (place + 1) * LEAPS] = x.astype(rows.dtype)

    plan.for_each(plan.group, body, at_once=HEADS_AT_ONCE)


def unsort_rows(rows: Ref, head: Array, unsorted: Ref) -> None:
    """Brings the rows of a head, ``[group, ROWS, size]`` in float32, back into their order."""
    for place in range(2 * RUN):
        x = rows[head, place * LEAPS : (place + 1) * LEAPS]
        write_rows(unsorted, _rows_at(place), x)


def _rows_at(place: int) -> Any:
    """Which rows of a window have a place in the sorted order, one of each leap."""
    parity, turn = divmod(place, RUN)
    return pl.ds(2 * turn + parity, LEAPS, stride=2 * RUN)
