"""Sizes and options of one call of the kernels that hold all heads of a mixing group."""

import dataclasses

from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import STACK, GroupPlan
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Tiling
from mta_jax.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """What of a tile may be seen, where only the running program knows it."""

    distance: Array
    """How far the tile's first query comes after its first key."""

    last_key: int
    """No query sees more keys of the tile."""

    num_keys: Array | None
    """The keys of the tile that are none of the padding; None where nothing is padded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(GroupPlan):
    """What the kernels are built for: lengths are padded to whole blocks."""

    query_block: int
    key_block: int
    padded_keys: int  # of `key_length`; without an offset no query sees them anyway

    @property
    def tiling(self) -> Tiling:
        """How tiles cover queries and keys."""
        return Tiling(
            rows=self.length // self.query_block,
            columns=self.key_length // self.key_block,
            queries=self.query_block,
            keys=self.key_block,
        )

    def places(
        self, i: Array, j: Array, distance: Array | None
    ) -> list[tuple[Array, int | Cut | None]]:
        """Where a tile can lie, each as a condition and how the diagonal cuts it.

        None below the diagonal. Elsewhere later keys than the first query's are in the tile:
        the distance of its first query from its first key, or, where tables give a `distance`,
        a `Cut`.
        """
        on_diagonal = range(0, self.key_block, self.query_block)
        if distance is None:
            distance = i * self.query_block - j * self.key_block
            return [
                (distance >= self.key_block, None),
                *((distance == offset, offset) for offset in on_diagonal),
            ]
        num_keys, is_cut = None, distance < self.key_block - 1
        if self.padded_keys:
            num_keys = self.key_length - self.padded_keys - j * self.key_block
            is_cut |= j == self.tiling.columns - 1
        # One for each number of keys that the last query may see, in whole query blocks.
        cuts: list[tuple[Array, int | Cut | None]] = []
        for offset in on_diagonal:
            last_key = offset + self.query_block
            is_here = is_cut
            if offset > 0:
                is_here &= distance > offset - self.query_block
            if last_key < self.key_block:
                is_here &= distance <= offset
            cuts.append((is_here, Cut(distance=distance, last_key=last_key, num_keys=num_keys)))
        return [(~is_cut, None), *cuts]

    def last_key(self, diagonal: int | Cut | None) -> int:
        """How many keys of a tile any of its queries sees."""
        if isinstance(diagonal, Cut):
            return diagonal.last_key
        return self.key_block if diagonal is None else diagonal + self.query_block

    def parts(self, width: int) -> list[slice]:
        """Columns that are mixed by one product."""
        size = min(STACK, width)
        return [slice(first, min(first + size, width)) for first in range(0, width, size)]
