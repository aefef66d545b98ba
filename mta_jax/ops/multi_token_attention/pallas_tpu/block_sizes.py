"""Block sizes and memory, by TPU generation."""

import dataclasses

from mta_jax.ops.multi_token_attention.pallas_tpu.plan import LANES, round_up


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
      vmem_limit_bytes: memory on the chip that a kernel may ask for.
    """

    block: int = 1024
    forward_rows: int = 512
    forward_columns: int = 1024
    vmem_limit_bytes: int = 56 * 2**20

    def fit(self, length: int, memory: "Memory") -> tuple["BlockSizes", int]:
        """Tiles for a sequence, and its length padded to whole tiles.

        They are the largest that fit into the memory, if any do, and do not pad too much.
        """
        block = tile_size(length, self.block)
        while block > LANES and (
            memory.bytes(round_up(length, block), block) > self.vmem_limit_bytes
        ):
            block //= 2
        sizes = dataclasses.replace(
            self,
            block=block,
            forward_rows=min(self.forward_rows, block),
            forward_columns=min(self.forward_columns, block),
        )
        return sizes, round_up(length, block)


def tile_size(length: int, largest: int) -> int:
    """The largest tile, of `largest`, half of it and so on, that does not pad too much.

    That is no more than an eighth beyond what tiles of `LANES` positions pad.
    """
    most = round_up(length, LANES) * 9 // 8
    while largest > LANES and round_up(length, largest) > most:
        largest //= 2
    return largest


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


LEAST_VMEM_BYTES = 32 * 2**20
"""What every kernel may ask for; every TPU since v5e has at least twice that."""

_BY_DEVICE_KIND = {
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), BlockSizes(vmem_limit_bytes=112 * 2**20)),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), BlockSizes(vmem_limit_bytes=112 * 2**20)),
    **dict.fromkeys(("TPU v5", "TPU v5p"), BlockSizes(vmem_limit_bytes=56 * 2**20)),
}
"""v5e and v6e have 128 MiB on a chip, v5p 64."""

INTERPRETED = BlockSizes(block=128)
"""Tiles are unrolled in the program, and a CPU takes minutes to compile large ones."""


def block_sizes(device_kind: str) -> BlockSizes:
    """The tiles for a kind of device, in JAX's words.

    Raises:
      NotImplementedError: for a TPU that the kernels have never been compiled for.
    """
    if device_kind not in _BY_DEVICE_KIND:
        raise NotImplementedError(
            f"device {device_kind!r}: compiled for v5e, v5p and v6e only; 'xla_chunked' runs "
            "anywhere"
        )
    return _BY_DEVICE_KIND[device_kind]
