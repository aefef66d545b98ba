"""How far a preparation is."""

from mta_jax.command_line.live_line import LiveLine


class ProgressLine(LiveLine):
    """Counts pieces of the input, and what was in them. Use as a context manager.

    Args:
      units: pieces of the input in all.
      done: of them, those that were complete before.

    Attributes:
      documents, tokens, bytes: done since it began.
    """

    def __init__(self, units: int, *, done: int):
        super().__init__("preparing", units, done=done, unit="pieces")
        self._done = done
        self.documents = self.tokens = self.bytes = 0

    def unit_done(self) -> None:
        """Counts one."""
        self._done += 1
        self.add(0, 0, 0)

    def add(self, documents: int, tokens: int, num_bytes: int) -> None:
        """Counts what was done since the last time."""
        self.documents += documents
        self.tokens += tokens
        self.bytes += num_bytes
        speed = self.bytes / 1e6 / max(self.seconds, 1e-9)
        self.update(
            self._done,
            f"{self.documents:,} documents  {self.tokens:,} tokens  {speed:.1f} MB/s",
        )
