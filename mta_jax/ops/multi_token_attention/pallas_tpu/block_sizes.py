"""Block sizes and memory.

One set serves v5e and v6e, for which the static schedules of their compiler were compared:
there, in cycles per 128 x 128 logits, 512 rows by 1024 columns at a time beat 1024 by 512
(77.5), 256 by 1024 (86) and 128 by 1024 (157) with 76.5 on v6e.
"""

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
      vmem_limit_bytes: memory on the chip that a kernel may ask for.
      resident_bytes: how much of it gradients of a whole sequence may take.
    """

    forward: int = 1024
    forward_rows: int = 512
    forward_columns: int = 1024
    backward: int = 512
    vmem_limit_bytes: int = 64 * 2**20
    resident_bytes: int = 49 * 2**20

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


def resident_bytes(length: int, head_size: int) -> int:
    """What the backward kernel keeps: queries' and keys' gradients, each buffered twice."""
    return 4 * 4 * (length + LANES) * round_up(head_size, LANES)


INTERPRETED = BlockSizes(forward=128, backward=128)
"""Tiles are unrolled in the program, and a CPU takes minutes to compile large ones."""
