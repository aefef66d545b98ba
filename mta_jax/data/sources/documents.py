"""What a source of documents offers."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
      name: where it is from: a file, a file and a line, a topic.
      content: its text, or its tokens without those of begin and end.
      prompt: text before the content, which is given: the loss is that of the content.
    """

    name: str
    content: str | np.ndarray
    prompt: str = ""


@runtime_checkable
class IndexedDocuments(Protocol):
    """Documents of which any can be read at once."""

    def __len__(self) -> int:
        """Number of documents, unreadable ones included."""

    def __getitem__(self, index: int) -> Document | None:
        """A document; None where it cannot be read, which the source has counted."""

    def name(self, index: int) -> str:
        """The name of a document, without reading it."""

    def summary(self) -> Mapping[str, Any]:
        """What tells this content from other content; see `summarize`."""


@runtime_checkable
class DocumentStream(Protocol):
    """Documents in parts, each read from its start."""

    @property
    def parts(self) -> Sequence[str]:
        """Names of the parts: files, or pieces of them."""

    @property
    def rows(self) -> Sequence[int | None]:
        """Numbers of their rows, where they are known without reading them."""

    def read(self, part: int, start: int) -> Iterator[tuple[str, Document | None]]:
        """Rows of a part from row `start` on, with their names; None as above."""

    def summary(self) -> Mapping[str, Any]:
        """What tells this content from other content; see `summarize`."""


def summarize(
    sizes: Iterable[tuple[str, int]], *, documents: int | None, content: Iterable[bytes] = ()
) -> dict[str, Any]:
    """Tells content apart without reading all of it.

    Args:
      sizes: name and size in bytes of each file.
      documents: their number, where it is known.
      content: what to hash beside, where it is at hand.
    """
    digest = hashlib.sha256()
    files, total = 0, 0
    for name, size in sizes:
        # A file's name need not be UTF-8.
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        files, total = files + 1, total + size
    for part in content:
        digest.update(len(part).to_bytes(8, "big") + part)
    return {
        "files": files,
        "bytes": total,
        "documents": documents,
        "digest": digest.hexdigest(),
    }


def sizes_of(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Name and size of each file. A folder may move as a whole."""
    return [(path.name, path.stat().st_size) for path in paths]
