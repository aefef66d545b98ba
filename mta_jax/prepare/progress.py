"""One live line on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

# Without a terminal, a line at most this often, in seconds.
_PLAIN_INTERVAL = 5.0


class ProgressLine:
    """Shows how far the work is. Use as a context manager.

    Args:
      units: pieces of the input in all.
      done: of them, those that were complete before.

    Attributes:
      documents, tokens, bytes: done since it began.
      begun: when, as `time.monotonic` tells it.
    """

    def __init__(self, units: int, *, done: int):
        self._units, self._done = units, done
        self.documents = self.tokens = self.bytes = 0
        self.begun = self._last_plain = time.monotonic()
        self._console = Console(file=sys.stdout, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total} pieces"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[values]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=units, completed=done, values="")

    def __enter__(self) -> "ProgressLine":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def unit_done(self) -> None:
        """Counts one."""
        self._done += 1
        self.add(0, 0, 0)

    def add(self, documents: int, tokens: int, num_bytes: int) -> None:
        """Counts what was done since the last time."""
        self.documents += documents
        self.tokens += tokens
        self.bytes += num_bytes
        now = time.monotonic()
        speed = self.bytes / 1e6 / max(now - self.begun, 1e-9)
        text = f"{self.documents:,} documents  {self.tokens:,} tokens  {speed:.1f} MB/s"
        if self._bar:
            self._bar.update(self._task, completed=self._done, values=text)
        elif now - self._last_plain >= _PLAIN_INTERVAL:
            self._last_plain = now
            self.message(f"{self._done}/{self._units} pieces  {text}")

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)
