"""Block sizes, and the memory they take."""

import dataclasses

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, round_up, tile_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """Tiles of the kernels, in positions; multiples of 128.

    Of what the static schedules of v5e and v6e were compared for (head size 128, cycles
    per 128 x 128 logits, v6e), these are the best: the forward kernel takes 77 with 512
    rows by 1024 columns at a time, 78 with 1024 by 512, 86 with 256 by 1024; the backward
    kernel 183 with tiles of 1024, 200 with tiles of 512.

    Args:
      block: rows and columns of a tile.
      forward_rows: rows that the forward kernel takes at a time; divides `block`, or is
        cut to it.
      forward_columns: columns that it takes at a time; likewise.
    """

    block: int = 1024
    forward_rows: int = 512
    forward_columns: int = 1024

    def fit(self, length: int, memory: "Memory", limit: int) -> tuple["BlockSizes", int]:
        """Tiles for a sequence, and its length padded to whole tiles.

        They are the largest that fit into `limit` bytes, if any do, and do not pad too much.
        """
        block = tile_size(length, self.block)
        while block > LANES and (memory.bytes(round_up(length, block), block) > limit):
            block //= 2
        sizes = dataclasses.replace(
            self,
            block=block,
            forward_rows=min(self.forward_rows, block),
            forward_columns=min(self.forward_columns, block),
        )
        return sizes, round_up(length, block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What a call needs of the memory on the chip, at most.

    The backward kernel needs most. It keeps the gradients of the queries and of the keys of
    a whole sequence, each buffered twice. The rest grows with the tiles; how much was found
    by compiling for smaller and smaller limits.

    Args:
      head_size: H.
      value_size: of the values that heads of a mixing group join.
      query_taps: Cq.
      has_segments: whether rows are packed.
      itemsize: bytes of an operand of matrix products, 2 or 4.
    """

    head_size: int
    value_size: int
    query_taps: int
    has_segments: bool
    itemsize: int

    def bytes(self, length: int, block: int) -> int:
        """For a padded sequence in tiles of `block` positions."""
        columns, value_columns = (round_up(x, LANES) for x in (self.head_size, self.value_size))
        resident = 4 * 4 * (length + LANES) * columns
        # In MiB for tiles of 1024, for each register of columns.
        per_column = 10 + 1.5 * max(self.query_taps, 6)
        working = per_column * columns / LANES + 3 * value_columns / LANES
        if self.itemsize == 4:
            working *= 3
        working += 3 + 3 * self.has_segments
        return resident + int(working * 2**20 * block / 1024)


INTERPRETED = BlockSizes(block=128)
"""Tiles are unrolled in the program, and a CPU takes minutes to compile large ones."""
