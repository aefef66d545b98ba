"""One live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# Without a terminal, a line at most this often, in seconds.
_PLAIN_INTERVAL = 5.0


class ProgressLine:
    """Shows how far a run is. Use as a context manager.

    Args:
      name: what is running.
      total: steps in all.
      start: step that the run continues from.
    """

    def __init__(self, name: str, total: int, *, start: int = 0):
        self._name = name
        self._total = total
        self._start = start
        self._begun = self._last_plain = time.monotonic()
        self._console = Console(file=sys.stdout, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}  {task.fields[values]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(name, total=total, completed=start, values="")

    def __enter__(self) -> "ProgressLine":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the step and some values."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar:
            self._bar.update(self._task, completed=step, values=text)
            return
        now = time.monotonic()
        if now - self._last_plain < _PLAIN_INTERVAL and step < self._total:
            return
        self._last_plain = now
        left = (now - self._begun) / max(step - self._start, 1) * (self._total - step)
        self.message(f"{self._name:<14} {step}/{self._total}  {text}  {left:.0f} s left")

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)
