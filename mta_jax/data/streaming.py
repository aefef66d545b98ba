"""A stream of documents as a Grain data set, with a position that can be restored."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from mta_jax.data.sources import Document, DocumentStream, Skips


class StreamDataset(grain.IterDataset):
    """The documents of a stream; endless, or once through.

    Parts come in another order in each epoch. Shares are of parts where there are
    enough of them, else of rows.

    Args:
      stream: the stream.
      is_kept: says of a document's name whether it belongs.
      seed: of the order of the parts; None: as they are.
      endless: whether to begin again.
      share: number of this share and their count.
      skips: knows whether anything could be read.
    """

    def __init__(
        self,
        stream: DocumentStream,
        is_kept: Callable[[str], bool],
        *,
        seed: int | None,
        endless: bool,
        share: tuple[int, int] = (0, 1),
        skips: Skips,
    ):
        super().__init__()
        self.stream = stream
        self.is_kept = is_kept
        self.seed = seed
        self.endless = endless
        self.share = share
        self.skips = skips

    def __iter__(self) -> "_StreamIterator":
        return _StreamIterator(self)

    def __str__(self) -> str:
        return "StreamDataset"


class _StreamIterator(grain.DatasetIterator):
    def __init__(self, dataset: StreamDataset):
        super().__init__()
        self._dataset = dataset
        self._set(epoch=0, place=0, row=0)

    def _set(self, *, epoch: int, place: int, row: int) -> None:
        self._epoch, self._place, self._row = epoch, place, row
        self._rows: Iterator[tuple[str, Document | None]] | None = None
        # Whether all of the epoch went by without a document.
        self._is_fruitless = place == row == 0
        index, count = self._dataset.share
        self._parts = np.arange(len(self._dataset.stream.parts))
        self._shares_parts = len(self._parts) >= count
        if self._shares_parts:
            self._parts = self._parts[index::count]
        if self._dataset.seed is not None:
            generator = np.random.default_rng([self._dataset.seed, epoch])
            self._parts = generator.permutation(self._parts)

    def __next__(self) -> Document:
        index, count = self._dataset.share
        while True:
            if self._place == len(self._parts):
                self._end_epoch()
            if self._rows is None:
                part = int(self._parts[self._place])
                self._rows = self._dataset.stream.read(part, self._row)
            for name, document in self._rows:
                row, self._row = self._row, self._row + 1
                is_ours = self._shares_parts or row % count == index
                if document is not None and is_ours and self._dataset.is_kept(name):
                    self._is_fruitless = False
                    return document
            self._place, self._row, self._rows = self._place + 1, 0, None

    def _end_epoch(self) -> None:
        if not self._dataset.endless:
            raise StopIteration
        if self._is_fruitless:
            # Otherwise it would go round for ever.
            raise self._dataset.skips.nothing_found()
        self._set(epoch=self._epoch + 1, place=0, row=0)

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "place": self._place, "row": self._row}

    def set_state(self, state: dict[str, Any]) -> None:
        self._set(**state)

    def __str__(self) -> str:
        return "StreamIterator"
