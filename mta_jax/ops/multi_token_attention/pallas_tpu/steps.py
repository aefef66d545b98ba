"""The order in which tiles are visited.

Without an offset, tables are known when kernels are built. With one, tables and how many steps
they have are computed when kernels run: then queries see as much of the keys as the offset says.
"""

import dataclasses
import enum
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, round_up
from mta_jax.typing import Array, Int

_MOST_TABLE_BYTES = 1000 * 2**10
"""Of the memory of scalars, of which every TPU has 1 MiB."""


class Column(enum.IntEnum):
    """What a table says of a step, 16 bits each."""

    QUERY = 0
    """Tile's place among the queries."""

    KEY = 1
    """Tile's place among the keys."""

    VALUE = 2
    """The same of values: where none are needed, those that are needed next."""

    STAGE = 3
    """See the table."""


class Steps(NamedTuple):
    """A table, and how many of its steps are taken.

    The table is the offset and then, of each step, one number with query and key and one with
    value and stage: the memory of scalars is small, and rows of an array in it come in eights.
    """

    table: np.ndarray | Int[Array, "numbers"]
    taken: int | Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """How tiles cover queries and keys.

    Args:
      rows: of tiles.
      columns: of tiles.
      queries: from one row to the next.
      keys: from one column to the next.
      keys_before: keys at the start of a column that the one before has, too.
      last_first_key: where the last column starts, if that is not a whole number of `keys`.
    """

    rows: int
    columns: int
    queries: int
    keys: int
    keys_before: int = 0
    last_first_key: int | None = None

    def first_key(self, column: Any) -> Any:
        """Where a column starts."""
        if self.last_first_key is None:
            return column * self.keys
        smaller = jnp.minimum if isinstance(column, jax.Array) else np.minimum
        return smaller(column * self.keys, np.int32(self.last_first_key))

    def num_seen(self, row: Any, offset: Any) -> Any:
        """How many tiles of a row have keys that its queries see; the first always counts."""
        last = (offset + (row + 1) * self.queries - 1 - self.keys_before) // self.keys
        clip = jnp.clip if isinstance(last, jax.Array) else np.clip
        return clip(last, 0, self.columns - 1) + 1

    def causal(self) -> list[tuple[int, int]]:
        """Tiles with any logit that is allowed, row by row, without an offset."""
        return [(i, j) for i in range(self.rows) for j in range(self.num_seen(i, 0))]


def refuse_long_tables(tiling: Tiling, *, has_offset: bool, others: int = 0) -> None:
    """Raises NotImplementedError where there are more tiles than a table can have.

    Args:
      tiling: of the call.
      has_offset: whether the table is for any offset.
      others: columns of another table beside it.
    """
    tiles = tiling.rows * tiling.columns if has_offset else len(tiling.causal())
    # Of two passes. The other table has rows for eight columns.
    needed = 4 * (2 * 2 * tiles + 8 * round_up(others, LANES))
    if needed > _MOST_TABLE_BYTES or max(tiling.rows, tiling.columns) >= 2**15:
        queries, keys = tiling.rows * tiling.queries, tiling.columns * tiling.keys
        raise NotImplementedError(
            f"{queries} queries and {keys} keys: the order of the tiles needs {needed >> 10} KiB "
            f"of the memory of scalars, of {_MOST_TABLE_BYTES >> 10}; 'xla_chunked' has no such "
            "limit"
        )


def in_two_passes(tiling: Tiling, offset: Int[Array, ""] | None) -> Steps:
    """Each row of tiles twice: from left to right, then back, stages 0 and 1."""
    if offset is not None:
        seen = tiling.num_seen(jnp.arange(tiling.rows), offset)
        i, place, taken = runs(2 * seen, 2 * tiling.rows * tiling.columns)
        last = tiling.num_seen(i, offset) - 1
        stage = (place > last).astype(jnp.int32)
        j = jnp.where(stage, 2 * last + 1 - place, place)
        return at_offset(offset, (i, j, jnp.where(stage, j, last), stage), taken)
    rows = []
    for i, tiles in itertools.groupby(tiling.causal(), key=lambda tile: tile[0]):
        keys = [j for _, j in tiles]
        rows += [(i, j, keys[-1], 0) for j in keys]
        rows += [(i, j, j, 1) for j in reversed(keys)]
    return known(rows)


def runs(lengths: Array, most: int) -> tuple[Array, Array, Array]:
    """Of `most` steps, the run that each belongs to and its place there, and how many are taken.

    The others are as the last one of these.
    """
    ends = jnp.cumsum(lengths)
    step = jnp.minimum(jnp.arange(most), ends[-1] - 1)
    is_past = ends <= step[:, None]
    start = jnp.max(jnp.where(is_past, ends, 0), axis=1)
    return jnp.sum(is_past, axis=1), step - start, ends[-1]


def known(rows: list[tuple[int, int, int, int]]) -> Steps:
    """Steps of which each row is one, in the order of `Column`."""
    columns = np.array(rows, np.int32).T
    return Steps(_table(np, np.int32(0), columns), len(rows))


def at_offset(offset: Array, columns: tuple[Array, Array, Array, Array], taken: Array) -> Steps:
    """Steps of which each column is given, in the order of `Column`."""
    table = _table(jnp, offset, tuple(x.astype(jnp.int32) for x in columns))
    return Steps(table, taken.astype(jnp.int32))


def _table(np_or_jnp: Any, offset: Any, columns: Any) -> Any:
    query, key, value, stage = columns
    numbers = np_or_jnp.stack([query << 16 | key, stage << 16 | value], axis=1)
    return np_or_jnp.concatenate([offset[None], numbers.reshape(-1)])


def entry(steps: Ref, column: Column, s: Array) -> Array:
    """What a table says of a step."""
    number = steps[2 * s + (1 if column in (Column.QUERY, Column.KEY) else 2)]
    return number >> 16 if column in (Column.QUERY, Column.STAGE) else number & 0xFFFF


def distance_at(tiling: Tiling, steps: Ref, s: Array) -> Array:
    """How far the first query of a step's tile comes after its first key, with an offset."""
    i, j = entry(steps, Column.QUERY, s), entry(steps, Column.KEY, s)
    return steps[0] + i * tiling.queries - tiling.first_key(j)
