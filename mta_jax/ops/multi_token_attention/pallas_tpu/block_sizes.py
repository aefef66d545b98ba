"""Block sizes and memory by generation of TPU."""

import dataclasses

from mta_jax.ops.multi_token_attention.pallas_tpu.plan import LANES, round_up


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """Tiles of the kernels, in positions; multiples of 128.

    Args:
      forward: rows and columns of a tile of the forward kernel.
      forward_rows: rows that it takes at a time; divides `forward`, or is cut to it.
      forward_columns: columns that it takes at a time; likewise.
      backward: rows and columns of a tile of the backward kernel.
      vmem_limit_bytes: memory that a kernel may ask for.
    """

    forward: int = 1024
    forward_rows: int = 512
    forward_columns: int = 1024
    backward: int = 512
    vmem_limit_bytes: int = 64 * 2**20

    def fit(self, length: int) -> tuple["BlockSizes", int]:
        """Tiles for a sequence, and its length padded to whole tiles.

        Short sequences get one tile that holds them, and lengths that large forward tiles
        would pad much get smaller ones.
        """
        backward = LANES
        while backward < min(length, self.backward):
            backward *= 2
        backward = min(backward, self.backward)
        padded = round_up(length, backward)
        forward = backward if padded % self.forward else self.forward
        sizes = dataclasses.replace(
            self,
            forward=forward,
            forward_rows=min(self.forward_rows, forward),
            forward_columns=min(self.forward_columns, forward),
            backward=backward,
        )
        return sizes, padded


INTERPRETED = BlockSizes(forward=128, backward=128)
"""Tiles are unrolled in the program, and a CPU takes minutes to compile large ones."""
