"""Files of which any document can be read at once."""

import bisect
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mta_jax.data.sources import text_of
from mta_jax.data.sources.documents import Document, IndexedDocuments, sizes_of, summarize
from mta_jax.data.sources.files import damage_reported, open_bytes
from mta_jax.data.sources.skips import Skips

_LINE_FEED = 10
_WHITE = np.frombuffer(b" \t\r\n\f\v", np.uint8)
_SCANNED_AT_ONCE = 1 << 26


class TextFiles:
    """One document per file.

    Args:
      paths: the files, UTF-8, compressed or not.
      skips: counts what cannot be read.
    """

    def __init__(self, paths: Sequence[Path], skips: Skips):
        self._paths = paths
        self._skips = skips

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Document | None:
        path = self._paths[index]
        with damage_reported(path), open_bytes(path) as file:
            content = file.read()
        return text_of.plain_text(str(path), content, self._skips)

    def name(self, index: int) -> str:
        """The path."""
        return str(self._paths[index])

    def summary(self) -> Mapping[str, Any]:
        """Of names and sizes."""
        return summarize(sizes_of(self._paths), documents=len(self))


class JsonLines:
    """One document per line of an uncompressed file; empty lines do not count.

    Opening it goes through the file once, for the places of its lines: about a second for
    a gigabyte.

    Args:
      path: the file.
      field: of each line, the field that holds the text.
      skips: counts what cannot be read.
    """

    def __init__(self, path: Path, field: str, skips: Skips):
        self._path = path
        self._field = field
        self._skips = skips
        starts, ends = _lines(path)
        self._numbers = np.flatnonzero(ends > starts)
        self._starts, self._ends = starts[self._numbers], ends[self._numbers]
        self._content = b"" if not len(self) else _mapped(path)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Document | None:
        line = self._content[self._starts[index] : self._ends[index]]
        return text_of.json_line(self.name(index), line, self._field, self._skips)

    def name(self, index: int) -> str:
        """The path and the line, from 1."""
        return f"{self._path}:{self._numbers[index] + 1}"

    def summary(self) -> Mapping[str, Any]:
        """Of name and size."""
        return summarize(sizes_of([self._path]), documents=len(self))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _lines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where each line of a file starts and ends, without its line feed; empty if it is blank."""
    feeds = []
    with path.open("rb") as file:
        offset = 0
        while chunk := file.read(_SCANNED_AT_ONCE):
            found = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _LINE_FEED)
            feeds.append(found + offset)
            offset += len(chunk)
    ends = np.concatenate([*feeds, np.array([offset], np.int64)])
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    if offset:
        content = _mapped(path)
        first = np.frombuffer(content, np.uint8)[np.minimum(starts, offset - 1)]
        for line in np.flatnonzero(np.isin(first, _WHITE)):
            if not content[starts[line] : ends[line]].strip():
                ends[line] = starts[line]
    return starts, ends


class Concatenated:
    """Several sources one after the other.

    Args:
      sources: at least one.
    """

    def __init__(self, sources: Sequence[IndexedDocuments]):
        self._sources = sources
        self._ends = np.cumsum([len(source) for source in sources]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Document | None:
        source, index = self._locate(index)
        return source[index]

    def name(self, index: int) -> str:
        """The name of a document."""
        source, index = self._locate(index)
        return source.name(index)

    def _locate(self, index: int) -> tuple[IndexedDocuments, int]:
        which = bisect.bisect_right(self._ends, index)
        source = self._sources[which]
        return source, index - self._ends[which] + len(source)

    def summary(self) -> Mapping[str, Any]:
        """Of all sources."""
        return combined([source.summary() for source in self._sources])


def combined(summaries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """One summary of several."""
    if len(summaries) == 1:
        return summaries[0]
    counts = [summary["documents"] for summary in summaries]
    total = summarize(
        ((summary["digest"], summary["bytes"]) for summary in summaries),
        documents=None if None in counts else sum(counts),
    )
    return total | {"files": sum(summary["files"] for summary in summaries)}
