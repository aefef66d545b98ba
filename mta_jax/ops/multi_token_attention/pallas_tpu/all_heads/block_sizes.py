"""Tiles of the kernels that hold all heads of a mixing group."""

import dataclasses
from collections.abc import Iterator

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, round_up, tile_size
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import stack_rows

_PARTS_OF_FLOAT32 = 8 * 2**20
"""What products of float32 take for their operands in parts of bfloat16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Queries and keys of a tile; the keys are a multiple of the queries."""

    query_block: int = 256
    key_block: int = 512

    def smaller(self) -> Iterator["Tiles"]:
        """These and smaller ones, down to the smallest."""
        tiles = self
        yield tiles
        while tiles.key_block > LANES:
            if tiles.key_block > tiles.query_block:
                tiles = dataclasses.replace(tiles, key_block=tiles.key_block // 2)
            else:
                tiles = dataclasses.replace(tiles, query_block=tiles.query_block // 2)
            yield tiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What a program needs of the memory on the chip, at most: in the backward kernel.

    Args:
      group: heads of a program.
      kv_heads: heads of its keys and values.
      head_size: H.
      value_size: Hv.
      itemsize: bytes of an operand of matrix products, 2 or 4.
      logit_itemsize: bytes of a stacked logit.
    """

    group: int
    kv_heads: int
    head_size: int
    value_size: int
    itemsize: int
    logit_itemsize: int

    def bytes(self, tiles: Tiles) -> int:
        """For tiles of a size."""
        columns = round_up(self.head_size, LANES)
        value_columns = round_up(self.value_size, LANES)
        both = columns + value_columns
        logits = self.group * tiles.query_block * tiles.key_block
        queries, keys = self.group * tiles.query_block, self.kv_heads * tiles.key_block
        matrix = (stack_rows(self.group) * self.group) ** 2
        # Operands and gradients are buffered twice.
        return (
            (self.itemsize + self.logit_itemsize) * logits
            + 2 * self.itemsize * both * (queries + keys)
            + 2 * 4 * both * keys
            + 4 * columns * queries
            + 2 * 4 * (self.itemsize + 4) * matrix
            # What products wait in, as was found by compiling for smaller and smaller limits.
            + 4 * logits
            + (_PARTS_OF_FLOAT32 if self.itemsize == 4 else 0)
        )


def fit(tiles: Tiles, length: int, memory: Memory, limit: int) -> Tiles | None:
    """The largest tiles, of these and smaller ones, that fit and do not pad too much.

    Args:
      tiles: the largest.
      length: of the keys.
      memory: what a program needs.
      limit: bytes that it may have.

    Returns:
      None where nothing fits.
    """
    largest = tile_size(length, tiles.key_block)
    for candidate in tiles.smaller():
        if candidate.key_block <= largest and memory.bytes(candidate) <= limit:
            return candidate
    return None
