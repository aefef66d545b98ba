"""Pieces of the input that can be worked on apart: what a shard holds follows from them alone."""

import dataclasses
import itertools
from collections.abc import Iterator

from mta_jax.data.sources import Document, DocumentStream, IndexedDocuments

Source = IndexedDocuments | DocumentStream

Position = tuple[int, int]
"""A document of an indexed source and 0; or a part of a stream and a row of it."""

# Parts of unknown sizes are joined where there are more, as each makes a shard at least.
_MOST_UNITS = 1_000


@dataclasses.dataclass(frozen=True)
class Unit:
    """Documents of an indexed source, or parts of a stream.

    Attributes:
      number: its place among all units.
      first: the first document or part.
      end: the one behind the last.
    """

    number: int
    first: int
    end: int


def units_of(source: Source, shard_documents: int) -> list[Unit]:
    """All units of a source in their order.

    Args:
      source: the source.
      shard_documents: documents of a unit, where that can be known. A part of a stream is
        never divided between units.
    """
    if isinstance(source, IndexedDocuments):
        ends = [*range(shard_documents, len(source), shard_documents), len(source)]
    else:
        ends = _ends_of_joined_parts(source, shard_documents)
    return [
        Unit(number, first, end)
        for number, (first, end) in enumerate(itertools.pairwise([0, *ends]))
    ]


def rows_of(
    source: Source, unit: Unit, start: Position
) -> Iterator[tuple[Position, Document | None]]:
    """Documents of a unit from a position on; None where one cannot be read.

    Yields:
      The position behind a document, and the document.
    """
    item, row = start
    if isinstance(source, IndexedDocuments):
        for index in range(item, unit.end):
            yield (index + 1, 0), source[index]
        return
    for part in range(item, unit.end):
        first = row if part == item else 0
        for number, (_, document) in enumerate(source.read(part, first), first + 1):
            yield (part, number), document


def _ends_of_joined_parts(stream: DocumentStream, shard_documents: int) -> list[int]:
    num_unknown = sum(rows is None for rows in stream.rows)
    joined = max(1, -(-num_unknown // _MOST_UNITS))
    assumed = max(1, shard_documents // joined)
    ends: list[int] = []
    filled = 0
    for part, known in enumerate(stream.rows):
        rows = assumed if known is None else known
        if part and filled + rows > shard_documents:
            ends.append(part)
            filled = 0
        filled += rows
    return [*ends, len(stream.rows)]
