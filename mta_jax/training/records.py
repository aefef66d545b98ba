"""Metrics on disk: JSON lines that survive a kill, and TensorBoard."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from mta_jax.errors import UserError
from mta_jax.training.trackers import Writer

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file.

    Raises:
      UserError: where a line is no JSON object with a step.
    """
    return _parse(path.read_bytes(), path)


def check_records(path: Path, size: int) -> None:
    """Makes sure that a file still starts with what a checkpoint relies on.

    Args:
      path: the file of rows.
      size: bytes that it had when the checkpoint was written.

    Raises:
      UserError: where these bytes are not all there, or are no rows.
    """
    content = path.read_bytes()[:size] if path.exists() else b""
    if len(content) < size:
        raise UserError(
            f"{path} has {len(content)} bytes, and had {size} when the checkpoint to continue "
            "from was written: restore the file from a copy, or choose another run_dir to start "
            "afresh"
        )
    _parse(content, path)


def _parse(content: bytes, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path} line {number}: expected a JSON object with a step; restore the file "
                "from a copy, or choose another run_dir to start afresh"
            ) from None
        rows.append(row)
    return rows


class JsonLines:
    """A file with one JSON object per line, each with its `step`.

    Args:
      path: the file; created where missing.
      size: bytes at its start to keep. The rest was written after the checkpoint that
        the run continues from, and will be written again.
    """

    def __init__(self, path: Path, *, size: int = 0):
        self._file = path.open("a", encoding="utf-8")
        self._file.truncate(size)
        self._file.seek(size)

    @property
    def size(self) -> int:
        """Bytes written so far, those kept from before included."""
        return self._file.tell()

    def write(self, row: Row) -> None:
        """Appends a row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Returns when everything written so far is on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Records:
    """Everything a run writes while it trains. Use as a context manager.

    Args:
      folder: the run folder.
      after: step that the run continues from.
      sizes: what `sync` returned at that step.
      writes: false leaves the files to another process, and does nothing.

    Raises:
      UserError: where a file does not hold what it held then; both stay as they are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        after: int = 0,
        sizes: Mapping[str, int] | None = None,
        writes: bool = True,
    ):
        self._trackers: Sequence[Writer] = ()
        self._writes = writes
        if not writes:
            return
        sizes = sizes or {METRICS_FILE: 0, TIMING_FILE: 0}
        for file, size in sizes.items():
            check_records(folder / file, size)
        self._metrics = JsonLines(folder / METRICS_FILE, size=sizes[METRICS_FILE])
        self._timing = JsonLines(folder / TIMING_FILE, size=sizes[TIMING_FILE])
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._writes:
            return
        self._metrics.close()
        self._timing.close()
        self._tensorboard.close()
        for tracker in self._trackers:
            tracker.close()

    def follow(self, trackers: Sequence[Writer]) -> None:
        """Hands every row to trackers too, from now on."""
        self._trackers = trackers

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Records what the run computed: equal in every repetition of the run."""
        if self._writes:
            self._write(self._metrics, step, values)

    def timing(self, step: int, values: Mapping[str, Any]) -> None:
        """Records what depends on the machine."""
        if self._writes:
            self._write(self._timing, step, values)

    def sync(self) -> dict[str, int]:
        """Puts every row on disk, for a checkpoint that relies on them.

        Returns:
          The size of each file in bytes; empty where another process writes them.
        """
        if not self._writes:
            return {}
        for lines in (self._metrics, self._timing):
            lines.sync()
        return {METRICS_FILE: self._metrics.size, TIMING_FILE: self._timing.size}

    def _write(self, lines: JsonLines, step: int, values: Mapping[str, Any]) -> None:
        lines.write({"step": step, **values})
        for tracker in self._trackers:
            tracker.write(step, values)
        for name, value in values.items():
            if isinstance(value, str):
                self._tensorboard.add_text(name, value, step)
            else:
                self._tensorboard.add_scalar(name, value, step)
