"""Sizes and options of one call of the kernels that have all four mixing steps.

Tiles are windows that overlap: what a convolution reads of its neighbours, a tile computes
itself. They start at multiples of `ALIGNED`, so that a program can fetch them. The last tile
of keys ends where the keys end, and owns what no other does.

The rows of a window of queries are sorted. First by parity: with two rows as one, a product
with a banded matrix convolves both, and reads seven rows where twice six were needed. Then
by their place in a run of `RUN` rows of one parity, the same place of all runs together in one
register: so the row before is in the register before, and nothing has to be shifted.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import GroupPlan
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Tiling
from mta_jax.typing import Array, Float

RUN = 8
"""Neighbouring rows of one parity, each in another register."""

LEAPS = 16
"""Runs of a window; the first one belongs to the window before."""

PHASE = RUN * LEAPS
"""Rows of a window that have the same parity."""

ROWS = 2 * PHASE
"""Rows of a window: even ones, then odd ones."""

MARGIN = 4
"""Registers before and after those of one parity, for the rows around a window."""

KEY_HALO = 16
"""Keys on each side of a window that its taps may reach, at most."""

ALIGNED = 16
"""Rows of a register of bfloat16, of which two numbers share a lane."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taps:
    """Size of a key-query kernel."""

    queries: int  # Cq
    keys: int  # Ck
    before: int  # taps on earlier keys

    @property
    def after(self) -> int:
        """Taps on later keys."""
        return self.keys - 1 - self.before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(GroupPlan):
    """What the kernels are built for."""

    pre_taps: Taps | None
    post_taps: Taps | None
    windows: int  # of keys in a tile, side by side, each as wide as a register
    last_key: int  # the last position that any query sees: of the keys before padding
    keeps_logits: bool = False  # of a row of tiles, for its second pass
    kept_maps: int = 0  # 1: gradients of weights, 2: logits too, for its second pass backward
    is_backward: bool = False

    @property
    def owned_leaps(self) -> slice:
        """Runs that a window owns. Gradients come from rows behind it, too."""
        return slice(1, LEAPS - 1 if self.is_backward else LEAPS)

    @property
    def queries(self) -> int:
        """Queries that a window owns."""
        return 2 * RUN * (self.owned_leaps.stop - self.owned_leaps.start)

    @property
    def query_windows(self) -> int:
        """How many cover the sequence; backward, with the rows before the last one's own."""
        rows = self.length + (2 * RUN if self.is_backward else 0)
        return -(-rows // self.queries)

    @property
    def keys_before(self) -> int:
        """Keys at the start of a window that the one before owns."""
        return max(self._reach("before", self.pre_taps), self._reach("after", self.post_taps))

    @property
    def keys_after(self) -> int:
        """Keys at the end of a window that the next one owns, at least."""
        return max(self._reach("after", self.pre_taps), self._reach("before", self.post_taps))

    @property
    def keys(self) -> int:
        """Keys that a window owns: from its start to that of the next."""
        return (LANES - self.keys_before - self.keys_after) // ALIGNED * ALIGNED

    @property
    def columns(self) -> int:
        """Columns of a tile: its windows, side by side."""
        return self.windows * LANES

    @property
    def all_columns(self) -> slice:
        """Of a tile."""
        return slice(0, self.columns)

    @property
    def tile_keys(self) -> int:
        """Keys of a tile, each once."""
        return (self.windows - 1) * self.keys + LANES

    @property
    def key_tiles(self) -> int:
        """How many cover the sequence."""
        return 1 - (self.tile_keys - self.key_length) // (self.windows * self.keys)

    @property
    def tiling(self) -> Tiling:
        """How tiles cover queries and keys."""
        return Tiling(
            rows=self.query_windows,
            columns=self.key_tiles,
            queries=self.queries,
            keys=self.windows * self.keys,
            keys_before=self.keys_before,
            last_first_key=self.key_length - self.tile_keys,
        )

    def columns_of(self, keys: Ref, head: Array) -> Float[Array, "columns size"]:
        """Keys or values of a tile and head, in the order of its columns.

        Args:
          keys: of the tile, ``[1, heads, tile_keys, size]``.
          head: which of them.
        """
        starts = [window * self.keys for window in range(self.windows)]
        return jnp.concatenate([keys[0, head, start : start + LANES] for start in starts], axis=0)

    @property
    def stacks(self) -> int:
        """Stacks of a tile."""
        return ROWS // self.rows

    def place_of_stack(self, stack: Array) -> tuple[Array, Array]:
        """Parity of its rows, and the place in a run of the first ones."""
        places = self.rows // LEAPS
        each = np.int32(RUN // places)
        return lax.div(stack, each), lax.rem(stack, each) * places

    def put_stack(self, source: Ref, stack: Array, x: Array) -> None:
        """Writes a stack to where maps are convolved from, see `convolution`."""
        parity, place = self.place_of_stack(stack)
        by_place = x.reshape(self.group, self.rows // LEAPS, LEAPS, self.columns)
        places = pl.ds(MARGIN + place, self.rows // LEAPS)
        source[:, parity, places] = by_place.astype(source.dtype)

    def _reach(self, side: str, taps: Taps | None) -> int:
        return 0 if taps is None else getattr(taps, side)
