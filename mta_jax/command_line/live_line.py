"""One live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Line = TypeVar("Line", bound="LiveLine")

# Without a terminal, a line at most this often, in seconds.
_PLAIN_INTERVAL = 5.0


class LiveLine:
    """Shows how far some work is. Use as a context manager.

    Args:
      name: what is at work.
      total: steps or pieces in all.
      done: of them, those done before.
      unit: what they are called behind their number.
    """

    def __init__(self, name: str, total: int, *, done: int = 0, unit: str = ""):
        self._name, self._total = name, total
        self._first: tuple[float, int] | None = None
        self._done = done
        self._unit = f" {unit}" if unit else ""
        self._begun = self._last_plain = time.monotonic()
        self._console = Console(file=sys.stdout, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}{task.fields[unit]}"),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                name, total=total, completed=done, unit=self._unit, values=""
            )

    def __enter__(self: Line) -> Line:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    def update(self, done: int, values: str) -> None:
        """Shows how much is done, and a text beside it."""
        self._done = done
        if self._bar:
            self._bar.update(self._task, completed=done, values=values)
            return
        now = time.monotonic()
        if now - self._last_plain < _PLAIN_INTERVAL and done < self._total:
            return
        self._last_plain = now
        # The time up to the first update is largely that of compiling.
        self._first = self._first or (now, done)
        left = ""
        if done > self._first[1]:
            rest = (now - self._first[0]) / (done - self._first[1]) * (self._total - done)
            left = f"  {rest:.0f} s left"
        self.message(f"{self._name:<14} {done}/{self._total}{self._unit}  {values}{left}")

    def advance(self, count: int) -> None:
        """Shows that so much more is done."""
        self.update(self._done + count, "")

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)
