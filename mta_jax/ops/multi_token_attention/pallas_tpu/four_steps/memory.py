"""What the kernels need of the memory on the chip."""

import dataclasses

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import LEAPS, MARGIN, ROWS, RUN
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.windows import HEADS_AT_ONCE
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, round_up
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import stack_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What a program needs, at most; found by compiling for smaller and smaller limits.

    Args:
      group: heads of a program.
      kv_heads: heads of its keys and values.
      head_size: H.
      value_size: Hv.
      taps: query taps of both convolutions together.
      itemsize: bytes of an operand of matrix products, 2 or 4.
    """

    group: int
    kv_heads: int
    head_size: int
    value_size: int
    taps: int
    itemsize: int

    def forward_bytes(self, windows: int, kept_tiles: int) -> int:
        """Of the forward kernel, for tiles of `windows` windows of keys.

        Its second pass takes the logits of `kept_tiles` from the first.
        """
        columns = windows * LANES
        return (
            self._operands(columns)
            + self._source(columns)
            + (1 + kept_tiles) * self._map(columns)
            # Largest logits and denominators; the output, once more in float32; sorted queries.
            + 2 * 4 * self.group * ROWS * LANES
            + (2 * self.itemsize + 4) * self.group * ROWS * round_up(self.value_size, LANES)
            + self.itemsize * self.group * ROWS * round_up(self.head_size, LANES)
            + _SPILLED * self.itemsize
        )

    def backward_bytes(self, windows: int, kept_tiles: int = 0) -> int:
        """Of the backward kernel, whose second pass takes `kept_tiles` of maps from the first."""
        columns = windows * LANES
        size, value_size = (round_up(x, LANES) for x in (self.head_size, self.value_size))
        gradients = 4 * self.kv_heads * columns * (size + value_size)
        return (
            self._operands(columns)
            + 4 * self._source(columns)
            + (3 + kept_tiles) * self._map(columns)
            + 3 * 4 * self.group * ROWS * LANES
            + gradients
            # Gradients of outputs, and sorted; sorted queries; their gradients, and in float32.
            + self.group * ROWS * self.itemsize * (3 * value_size + 3 * size)
            + self.group * (ROWS + _CARRIED) * 4 * size
            + 4 * (self._bands() + 2 * self._matrix())
            + _SPILLED * self.itemsize
        )

    def _operands(self, columns: int) -> int:
        """Windows and tiles, which are buffered twice, and kernels."""
        size, value_size = (round_up(x, LANES) for x in (self.head_size, self.value_size))
        queries = self.group * ROWS * size
        keys = self.kv_heads * columns * (size + value_size)
        unsorted = 4 * HEADS_AT_ONCE * ROWS * (size + value_size)
        operands = 2 * (queries + keys) + self._bands() + 4 * self._matrix()
        return self.itemsize * operands + unsorted

    def _bands(self) -> int:
        return self.group * self.taps * LANES**2

    def _matrix(self) -> int:
        return (self.group * stack_rows(self.group)) ** 2

    def _source(self, columns: int) -> int:
        return self.itemsize * self.group * 2 * (RUN + 2 * MARGIN) * LEAPS * columns

    def _map(self, columns: int) -> int:
        return self.itemsize * self.group * ROWS * columns


_CARRIED = 4 * RUN
"""Rows that a window backward shares with the next one."""

_SPILLED = 2 * 2**20
"""What values of a round take beside their registers, for each byte of an operand."""
