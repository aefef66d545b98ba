"""Which tiles there are, what lies in them, and how their operands reach a program."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.convolution import PADDED
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import (
    ALIGNED,
    LEAPS,
    MARGIN,
    PHASE,
    RUN,
    Plan,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, shared
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import AT_ONCE
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Column, entry
from mta_jax.typing import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Documents:
    """Those of packed rows, in the layouts that the kernels want."""

    rows: Int[Array, "B windows 2 padded leaps lanes"]  # with the rows around each window
    columns: Int[Array, "B tiles 1 columns"]
    ranges: Int[Array, "4 entries"]  # least and largest, of each window and of each tile


def lay_out(
    plan: Plan, segment_ids: Int[Array, "B T"], key_segment_ids: Int[Array, "B S"]
) -> Documents:
    """Lays out the documents of a sequence. Positions outside have those of its ends."""
    starts = np.arange(plan.query_windows) * plan.queries - 2 * RUN
    parity, place, leap = np.meshgrid(
        np.arange(2), np.arange(-MARGIN, RUN + MARGIN), np.arange(LEAPS), indexing="ij"
    )
    positions = starts[:, None, None, None] + 2 * (place + RUN * leap) + parity
    around = segment_ids[:, np.clip(positions, 0, segment_ids.shape[1] - 1)]
    rows = jnp.broadcast_to(around[..., None], (*around.shape, LANES))

    first = plan.tiling.first_key(np.arange(plan.key_tiles))
    windows = np.arange(plan.windows) * plan.keys
    positions = first[:, None, None] + windows[:, None] + np.arange(LANES)
    keys = key_segment_ids[:, np.minimum(positions, key_segment_ids.shape[1] - 1)]
    columns = keys.reshape(plan.batch, plan.key_tiles, 1, plan.columns)
    size = max(plan.query_windows, plan.key_tiles) * plan.batch

    def flat(x: Array) -> Array:
        return jnp.pad(x.reshape(-1), (0, size - x.size))

    ranges = [
        flat(reduce(x.reshape(*x.shape[:2], -1), axis=2))
        for x in (around, columns)
        for reduce in (jnp.min, jnp.max)
    ]
    return Documents(rows, columns, jnp.stack(ranges))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tile lies."""

    is_here: Bool[Array, ""]
    cuts_future: bool  # whether some of its keys come after some of its queries
    cuts_documents: bool  # whether it holds several documents

    @property
    def heads_at_once(self) -> int:
        """Of a round of a loop over convolutions, at most: masks of documents take memory, too."""
        return AT_ONCE // 4 if self.cuts_documents else AT_ONCE


@dataclasses.dataclass(frozen=True)
class Position:
    """Which tile a step is about.

    Attributes:
      i: window of queries.
      j: tile of keys.
      distance: how far the window's first own query comes after the tile's first key, where
        only the running program knows it.
    """

    i: Any
    j: Any
    distance: Any = None

    def first_query(self, plan: Plan) -> Any:
        """Of the window, counted from the first query of all; negative before it."""
        return self.i * plan.queries - 2 * RUN

    def first_position(self, plan: Plan) -> Any:
        """Of the window's first query, counted from the tile's first key."""
        if self.distance is None:
            return self.first_query(plan) - plan.tiling.first_key(self.j)
        return self.distance - 2 * RUN

    def last_position(self, plan: Plan) -> Any:
        """The last key that any query sees, counted likewise: keys beyond are padding."""
        return plan.last_key - plan.tiling.first_key(self.j)


def places(plan: Plan, at: Position, b: Array, ranges: Ref | None) -> Iterator[Place]:
    """All ways for a tile to lie; none where its queries see nothing of it."""
    cuts = _cuts_future(plan, at)
    if ranges is None:
        yield Place(cuts, cuts_future=True, cuts_documents=False)
        yield Place(~cuts, cuts_future=False, cuts_documents=False)
        return
    row, column = b * plan.query_windows + at.i, b * plan.key_tiles + at.j
    least, most = ranges[0, row], ranges[1, row]
    least_key, most_key = ranges[2, column], ranges[3, column]
    is_one = (least == most) & (least_key == most_key) & (least == least_key)
    are_apart = (most < least_key) | (most_key < least)
    yield Place(~is_one & ~are_apart, cuts_future=True, cuts_documents=True)
    yield Place(is_one & cuts, cuts_future=True, cuts_documents=False)
    yield Place(is_one & ~cuts, cuts_future=False, cuts_documents=False)


def count_tiles(plan: Plan) -> tuple[int, int]:
    """Tiles that hold future keys, and those that do not; of a whole sequence."""
    tiles = plan.tiling.causal()
    cut = sum(bool(_cuts_future(plan, Position(i, j))) for i, j in tiles)
    return cut, len(tiles) - cut


def _cuts_future(plan: Plan, at: Position) -> Any:
    last_seen = at.first_position(plan)
    if at.distance is not None:
        last_seen = jnp.minimum(last_seen, at.last_position(plan))
    # Rows before the first query see nothing either.
    return (plan.tile_keys - 1 > last_seen) | (at.first_query(plan) < 0)


def allowed(
    plan: Plan, at: Position, documents: tuple[Ref, Ref] | None
) -> Bool[Array, "rows columns"]:
    """Which keys of a tile each of its queries may see.

    Args:
      plan: of the call.
      at: the tile.
      documents: of rows and columns, where a tile holds several.
    """
    shape = (PHASE, plan.columns)
    key = _key_of_column(plan, lax.broadcasted_iota(jnp.int32, shape, 1))
    row = lax.broadcasted_iota(jnp.int32, shape, 0)
    place = lax.div(row, np.int32(LEAPS))
    turn = place + RUN * (row - LEAPS * place)
    parts = []
    for parity in range(2):
        query = 2 * turn + parity
        seen = key <= at.first_position(plan) + query
        if at.distance is not None:
            seen &= key <= at.last_position(plan)
            # Those before the first query stand at positions that may see something.
            seen &= at.first_query(plan) + query >= 0
        if documents is not None:
            own = documents[0][parity, MARGIN : MARGIN + RUN].reshape(PHASE, LANES)
            seen = seen & (jnp.concatenate([own] * plan.windows, axis=1) == documents[1][...])
        parts.append(seen)
    return jnp.concatenate(parts, axis=0)


def owned_columns(plan: Plan, at: Position, rows: int) -> Bool[Array, "rows columns"]:
    """Columns of keys that a tile owns."""
    column = lax.broadcasted_iota(jnp.int32, (rows, plan.columns), 1)
    lane = lax.rem(column, np.int32(LANES))
    is_first, is_last = column < LANES, column >= plan.columns - LANES
    after_start = (lane >= plan.keys_before) | is_first
    before_end = (lane < plan.keys_before + plan.keys) | is_last
    key = _key_of_column(plan, column)
    tiling = plan.tiling
    own = at.j * tiling.keys + plan.keys_before - tiling.first_key(at.j)
    first_own = jnp.where(at.j > 0, own, 0)
    last_own = jnp.where(at.j < tiling.columns - 1, own + tiling.keys, plan.tile_keys)
    return after_start & before_end & (key >= first_own) & (key < last_own)


def _key_of_column(plan: Plan, column: Array) -> Array:
    """Counted from the first key of the tile."""
    # Not `//`, which in Python's rounding costs a dozen instructions.
    return column - (LANES - plan.keys) * lax.div(column, np.int32(LANES))


def query_specs(plan: Plan, size: int) -> list[pl.BlockSpec]:
    """The rows before a window's own, its own, and backward those after, of ``[B, N, T, size]``.

    Beyond the ends of the sequence there is something else.
    """
    runs = plan.queries // (2 * RUN)
    num_runs = -(-plan.length // (2 * RUN))

    def run(of_window: Callable[[Array], Array]) -> pl.BlockSpec:
        def index(b: Array, p: Array, s: Array, steps: Ref, *_: Ref) -> tuple[Any, ...]:
            return b, p, of_window(entry(steps, Column.QUERY, s)), 0

        return pl.BlockSpec((None, plan.group, 2 * RUN, size), index)

    specs = [run(lambda i: jnp.maximum(i * runs - 1, 0)), own_query_spec(plan, size)]
    if plan.is_backward:
        specs.append(run(lambda i: jnp.minimum((i + 1) * runs, num_runs - 1)))
    return specs


def own_query_spec(plan: Plan, size: int) -> pl.BlockSpec:
    """As many rows as a window owns, of an array ``[B, N, T, size]``."""
    last = -(-plan.length // plan.queries) - 1
    return pl.BlockSpec(
        (None, plan.group, plan.queries, size),
        lambda b, p, s, steps, *_: (b, p, jnp.minimum(entry(steps, Column.QUERY, s), last), 0),
    )


def key_spec(plan: Plan, size: int, column: Column) -> pl.BlockSpec:
    """The keys of a tile, of an array ``[B, K, S, size]``."""
    shape = (1, plan.kv_heads, plan.tile_keys, size)

    def index(b: Array, p: Array, s: Array, steps: Ref, *_: Ref) -> tuple[Any, ...]:
        head = shared(p, plan.programs_of_kv_heads) * plan.kv_heads
        return b, head, pl.multiple_of(plan.tiling.first_key(entry(steps, column, s)), ALIGNED), 0

    return pl.BlockSpec(tuple(pl.Element(n) for n in shape), index)


def per_program_spec(x: Array) -> pl.BlockSpec:
    """What a program has of an array ``[programs, ...]``, or ``[N, ...]`` as such."""
    shape = x.shape[1:]
    # It stays for all steps, and a second buffer would hold nothing meanwhile.
    return pl.BlockSpec(
        (None, *shape),
        lambda b, p, s, *_: (p, *[0] * len(shape)),
        pipeline_mode=pl.Buffered(1),
    )


def stack_spec(plan: Plan, count: int) -> pl.BlockSpec:
    """What there is of the rows of a window's stacks, ``[B, programs, stacks, count, stack]``."""
    return pl.BlockSpec(
        (None, None, plan.stacks, count, plan.stack),
        lambda b, p, s, steps, *_: (b, p, entry(steps, Column.QUERY, s), 0, 0),
    )


def document_specs(plan: Plan) -> list[pl.BlockSpec]:
    """Documents of a tile's rows and columns."""
    return [
        pl.BlockSpec(
            (None, None, 2, PADDED, LEAPS, LANES),
            lambda b, p, s, steps, *_: (b, entry(steps, Column.QUERY, s), 0, 0, 0, 0),
        ),
        pl.BlockSpec(
            (None, None, 1, plan.columns),
            lambda b, p, s, steps, *_: (b, entry(steps, Column.KEY, s), 0, 0),
        ),
    ]
