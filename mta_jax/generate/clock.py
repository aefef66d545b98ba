"""How fast tokens were written."""

import contextlib
import time
from collections.abc import Iterator, Sequence


class Clock:
    """Times batches of texts.

    Args:
      block: tokens of a text that are written before it is looked at first.
    """

    def __init__(self, block: int):
        self._block = block
        self._num_tokens = self._num_later = 0
        self._seconds = self._later_seconds = 0.0

    @contextlib.contextmanager
    def timing(self) -> Iterator["Timing"]:
        """Times one batch."""
        timing = Timing()
        yield timing
        end = time.perf_counter()
        self._num_tokens += sum(timing.lengths)
        self._seconds += end - timing.begun
        if timing.first is not None:
            self._num_later += sum(max(length - self._block, 0) for length in timing.lengths)
            self._later_seconds += end - timing.first

    def summary(self) -> str:
        """A line for people; the first block of a batch waits for prompts and the compiler."""
        line = f"{self._num_tokens:,} tokens in {self._seconds:.1f} s"
        if self._num_later and self._later_seconds > 0:
            rate = self._num_later / self._later_seconds
            line += f"; {rate:,.1f} tokens per second after the first {self._block} of each text"
        return line


class Timing:
    """One batch.

    Attributes:
      begun: when it began.
      first: when the first block was written.
      lengths: tokens of each text.
    """

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.first: float | None = None
        self.lengths: Sequence[int] = ()

    def has_block(self) -> None:
        """To be called after each block of tokens."""
        if self.first is None:
            self.first = time.perf_counter()

    def wrote(self, lengths: Sequence[int]) -> None:
        """How long the texts are."""
        self.lengths = lengths
