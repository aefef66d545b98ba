"""Documents in memory, and parts of other sources."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mta_jax.data.sources.documents import Document, IndexedDocuments, summarize


class InMemoryDocuments:
    """Texts at hand.

    Args:
      documents: the documents.
    """

    def __init__(self, documents: Sequence[Document]):
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document | None:
        return self._documents[index]

    def name(self, index: int) -> str:
        """The name of a document."""
        return self._documents[index].name

    def summary(self) -> Mapping[str, Any]:
        """Of names and contents."""
        contents = [
            document.content.encode(errors="replace")
            if isinstance(document.content, str)
            else document.content.tobytes()
            for document in self._documents
        ]
        names = [document.name for document in self._documents]
        sizes = zip(names, map(len, contents), strict=True)
        return summarize(sizes, documents=len(names), content=contents)


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some documents of a source.

    Attributes:
      source: the source.
      indices: which of its documents, in order.
    """

    source: IndexedDocuments
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Document | None:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        """The name of a document."""
        return self.source.name(int(self.indices[index]))

    def summary(self) -> Mapping[str, Any]:
        """Of the whole source."""
        return self.source.summary()
