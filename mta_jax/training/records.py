"""Metrics on disk: JSON lines that survive a kill, and TensorBoard."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from mta_jax.training.run_folder import write_atomically

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file, up to the first line that is cut off or broken."""
    rows: list[Row] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows


class JsonLines:
    """A file with one JSON object per line, each with its `step`.

    Args:
      path: the file.
      after: rows of later steps are dropped, because the run continues from there
        and will write them again.
    """

    def __init__(self, path: Path, *, after: int):
        kept = [row for row in read_rows(path) if row["step"] <= after]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")

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
    """

    def __init__(self, folder: Path, *, after: int):
        self._metrics = JsonLines(folder / "metrics.jsonl", after=after)
        self._timing = JsonLines(folder / "timing.jsonl", after=after)
        self._tensorboard = SummaryWriter(
            str(folder / "tensorboard"), purge_step=after + 1 if after else None
        )

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        self._timing.close()
        self._tensorboard.close()

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Records what the run computed: equal in every repetition of the run."""
        self._write(self._metrics, step, values)

    def timing(self, step: int, values: Mapping[str, Any]) -> None:
        """Records what depends on the machine."""
        self._write(self._timing, step, values)

    def sync(self) -> None:
        """Returns when every row is on disk; called before a checkpoint relies on it."""
        self._metrics.sync()
        self._timing.sync()

    def _write(self, lines: JsonLines, step: int, values: Mapping[str, Any]) -> None:
        lines.write({"step": step, **values})
        for name, value in values.items():
            if isinstance(value, str):
                self._tensorboard.add_text(name, value, step)
            else:
                self._tensorboard.add_scalar(name, value, step)
