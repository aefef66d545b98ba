"""Batches made of several streams, so that processes can share out the reading.

A batch has the same number of rows of each stream, in order. A process reads the streams
that its own rows are in. What a batch holds depends on the number of streams and not on
that of processes, and so does the position: one state for each stream.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import grain
import numpy as np

Batch = Mapping[str, np.ndarray]
"""Arrays [rows, row_length] by name, as `mta_jax.data.pipeline` lists them."""

Position = dict[str, dict[str, Any]]
"""``{"streams": {"0": state, ...}}``: plain values, with the states of all streams, or of those
that one process reads."""


class StreamedBatches(grain.IterDataset):
    """Some neighbouring rows of endless batches.

    Args:
      streams: by number, data sets of the parts of batches.
      rows: first and end of the rows among those that these streams give together.
    """

    def __init__(self, streams: Mapping[int, grain.IterDataset], rows: tuple[int, int]):
        super().__init__()
        self.streams = streams
        self.rows = rows

    def __iter__(self) -> "_StreamedIterator":
        return _StreamedIterator(self)

    def __str__(self) -> str:
        return f"StreamedBatches({len(self.streams)})"


class _StreamedIterator(grain.DatasetIterator):
    def __init__(self, dataset: StreamedBatches):
        super().__init__()
        self._streams = {str(number): iter(ds) for number, ds in dataset.streams.items()}
        self._rows = slice(*dataset.rows)

    def __next__(self) -> Batch:
        parts = [next(stream) for stream in self._streams.values()]
        if len(parts) == 1:
            return {name: x[self._rows] for name, x in parts[0].items()}
        return {
            name: np.concatenate([part[name] for part in parts])[self._rows] for name in parts[0]
        }

    def get_state(self) -> Position:
        return {"streams": {name: stream.get_state() for name, stream in self._streams.items()}}

    def set_state(self, state: Position) -> None:
        for name, stream in self._streams.items():
            stream.set_state(state["streams"][name])

    def __str__(self) -> str:
        return "StreamedIterator"


def joined(positions: Iterable[Position]) -> Position:
    """The position of a run from those of its processes."""
    states: dict[int, Any] = {}
    for position in positions:
        states |= {int(name): state for name, state in position["streams"].items()}
    return {"streams": {str(number): states[number] for number in sorted(states)}}
