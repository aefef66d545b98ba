"""What the softmax of rows needs, gathered tile by tile, and as columns or rows of lanes.

Numbers of rows are columns where logits are, one row of a stack below another, and lie along
the lanes of a register in main memory. Those of all stacks of a row of tiles are turned
together: a transposition takes as long for one column as for `LANES`.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.products import sum_of_lanes
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import for_each, to_width
from mta_jax.typing import Array, Float

FINISH_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowStatistics:
    """The largest logit and the denominator of each row of the stacks of a row of tiles.

    Each lane has its own until the end of the row.

    Args:
      maximum: memory, ``[stacks, stack, lanes]``.
      total: memory, likewise.
      columns: memory, ``[stack, lanes]``.
      hidden: logit of a key that may not be seen.
      has_blank_rows: whether there are rows that see no key.
      interpret: whether kernels are interpreted, or how.
    """

    maximum: Ref
    total: Ref
    columns: Ref
    hidden: float
    has_blank_rows: bool
    interpret: Any

    @staticmethod
    def scratch_shapes(stacks: int, stack: int) -> list[Any]:
        """Of the three memories, in their order."""
        shapes = [(stacks, stack, LANES), (stacks, stack, LANES), (stack, LANES)]
        return [pltpu.VMEM(shape, jnp.float32) for shape in shapes]

    def start(self) -> None:
        """Before the first tile."""
        self.maximum[...] = jnp.full_like(self.maximum, self.hidden)
        self.total[...] = jnp.zeros_like(self.total)

    def add(self, g: Array, x: Float[Array, "stack columns"]) -> None:
        """Logits of a stack, in units of log 2."""
        lanes = [x[:, c : c + LANES] for c in range(0, x.shape[1], LANES)]
        previous = self.maximum[g]
        current = functools.reduce(jnp.maximum, lanes, previous)
        rescaled = self.total[g] * jnp.exp2(previous - current)
        self.maximum[g] = current
        self.total[g] = functools.reduce(
            jnp.add, [jnp.exp2(lane - current) for lane in lanes], rescaled
        )

    def finish(self, statistics: Float[Ref, "stacks 2 stack"]) -> None:
        """After the last tile: writes the largest logits, and denominators relative to them.

        The denominator of a row that sees no key is infinite: what is divided by it vanishes.
        """

        def body(indices: list[Array]) -> None:
            columns = self.columns[...]
            for g in indices:
                largest = jnp.max(self.maximum[g], axis=1, keepdims=True)
                # A lane that has met no allowed key has summed up weights of one: they vanish.
                sums = self.total[g] * jnp.exp2(self.maximum[g] - largest)
                denominator = sum_of_lanes(sums, interpret=self.interpret)
                if self.has_blank_rows:
                    denominator = jnp.where(largest > self.hidden, denominator, jnp.inf)
                columns = _with_columns(columns, 2 * g, [largest, denominator])
                self.maximum[g] = jnp.broadcast_to(largest, columns.shape)
                self.total[g] = 1 / denominator
            self.columns[...] = columns

        for_each(self.maximum.shape[0], body, at_once=FINISH_AT_ONCE)
        write_columns(statistics, self.columns)

    def weights(self, g: Array, x: Float[Array, "stack columns"]) -> Array:
        """Weights of logits of a stack, after `finish`."""
        width = x.shape[1]
        return jnp.exp2(x - to_width(self.maximum[g], width)) * to_width(self.total[g], width)


def add_lanes(sums: Ref, g: Array, x: Float[Array, "stack columns"]) -> None:
    """Adds to the sums of a stack, ``[stacks, stack, lanes]``, each lane for itself."""
    lanes = [x[:, c : c + LANES] for c in range(0, x.shape[1], LANES)]
    sums[g] = functools.reduce(jnp.add, lanes, sums[g])


def put_sums(sums: Ref, columns: Ref, out: Float[Ref, "stacks 1 stack"]) -> None:
    """Writes the sums over lanes of ``[stacks, stack, lanes]``; `columns` is memory."""

    def body(indices: list[Array]) -> None:
        x = columns[...]
        for g in indices:
            x = _with_columns(x, g, [jnp.sum(sums[g], axis=1, keepdims=True)])
        columns[...] = x

    for_each(sums.shape[0], body, at_once=FINISH_AT_ONCE)
    write_columns(out, columns)


def write_columns(out: Ref, columns: Float[Ref, "stack lanes"]) -> None:
    """Turns the first columns to rows of ``[stacks, count, stack]``."""
    stacks, count, _ = out.shape
    out[...] = columns[...].T[: stacks * count].reshape(out.shape)


def load_columns(rows: Float[Ref, "stacks count stack"], refs: tuple[Ref | None, ...]) -> None:
    """Turns rows to columns: each of a stack's rows to one of `refs`, ``[stacks, stack, lanes]``.

    Args:
      rows: what each row of each stack has.
      refs: where it is written, the same in every lane; None for rows that are not needed.
    """
    stacks, count, stack = rows.shape
    x = rows[...].reshape(stacks * count, stack)
    padding = jnp.zeros((LANES - stacks * count, stack), x.dtype)
    columns = jnp.concatenate([x, padding], axis=0).T
    for g in range(stacks):
        for row, ref in enumerate(refs):
            column = g * count + row
            if ref is not None:
                ref[g] = jnp.broadcast_to(columns[:, column : column + 1], ref.shape[1:])


def _with_columns(x: Array, first: Array, columns: list[Array]) -> Array:
    lane = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    for offset, column in enumerate(columns):
        x = jnp.where(lane == first + offset, column, x)
    return x
