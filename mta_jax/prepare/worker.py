"""Does units: reads their documents, makes tokens of them, writes their shards."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mta_jax.data.sources import Document
from mta_jax.data.tokenizers import Tokenizer, load_tokenizer
from mta_jax.data.tokenizers.checks import well_formed
from mta_jax.prepare import inputs
from mta_jax.prepare.folder import write_piece
from mta_jax.prepare.shards import Piece, Shard
from mta_jax.prepare.tally import Tally
from mta_jax.prepare.units import Position, Source, Unit, rows_of

# Seconds between two reports of the same worker.
_INTERVAL = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker has to know; another process can be told it.

    Attributes:
      locations, field: the input.
      tokenizer, bos_token, eos_token: for `load_tokenizer`.
      dtype: of tokens.
      output: folder of the shards.
      shard_documents: documents of a shard, at most.
      max_skipped: share of unreadable documents that is borne.
      expected: documents of the input, where that is known.
    """

    locations: Sequence[str]
    field: str
    tokenizer: str
    bos_token: str | None
    eos_token: str | None
    dtype: str
    output: Path
    shard_documents: int
    max_skipped: float
    expected: int | None


Report = Callable[[int, int, int], None]
"""Takes documents, tokens and bytes of text that are done since the last report."""


class Worker:
    """Does units of one job.

    Args:
      job: the job.
      report: is told what is done; may raise to stop.
    """

    def __init__(self, job: Job, report: Report):
        self._job = job
        self._report = report
        self._tally = Tally(job.max_skipped, job.expected)
        self._source: Source = inputs.opened(job.locations, job.field, self._tally)
        self._tokenizer: Tokenizer = load_tokenizer(
            job.tokenizer, bos_token=job.bos_token, eos_token=job.eos_token
        )

    def do(self, unit: Unit, done: Sequence[Piece]) -> list[Piece]:
        """Does what is left of a unit.

        Args:
          unit: the unit.
          done: its first pieces, which are complete.

        Returns:
          The other pieces.

        Raises:
          UserError: where a file is damaged or cannot be written, or too many documents
            cannot be read.
        """
        start: Position | None = done[-1].following if done else (unit.first, 0)
        pieces: list[Piece] = []
        if start is None:
            return pieces
        rows = rows_of(self._source, unit, start)
        while not pieces or pieces[-1].following is not None:
            # Whoever waits for the end of small pieces need not wait for another.
            self._report(0, 0, 0)
            pieces.append(self._piece(unit, len(done) + len(pieces), rows))
        return pieces

    def _piece(
        self, unit: Unit, number: int, rows: Iterator[tuple[Position, Document | None]]
    ) -> Piece:
        job = self._job
        self._tally.restart()
        shard = Shard(job.output, unit.number, number, job.dtype)
        counts = _Counts(self._report)
        following: Position | None = None
        num_rows = 0
        try:
            for row in itertools.islice(rows, job.shard_documents):
                following, document = row
                num_rows += 1
                if document is None:
                    continue
                tokens, num_bytes = self._tokens(document)
                if len(tokens):
                    shard.add(tokens)
                    counts.add(len(tokens), num_bytes)
                else:
                    reason = "the tokenizer leaves nothing of it" if num_bytes else "empty"
                    self._tally.skip_empty(document.name, reason)
            file = shard.finish()
        finally:
            shard.discard()
        if num_rows < job.shard_documents or following == (unit.end, 0):
            following = None
        piece = Piece(
            unit=unit.number,
            number=number,
            documents=counts.documents,
            tokens=counts.tokens,
            bytes=counts.bytes,
            skipped=self._tally.num_skipped,
            skipped_in=self._tally.worst_files,
            reasons=self._tally.reasons,
            following=following,
            **file,
        )
        write_piece(job.output, piece)
        counts.report()
        return piece

    def _tokens(self, document: Document) -> tuple[np.ndarray, int]:
        text: Any = document.content
        return self._tokenizer.encode(text), len(well_formed(text).encode())


class _Counts:
    """What is in a piece so far, told from time to time."""

    def __init__(self, report: Report):
        self.documents = self.tokens = self.bytes = 0
        self._report = report
        self._reported = (0, 0, 0)
        self._last = time.monotonic()

    def add(self, tokens: int, num_bytes: int) -> None:
        """Counts a document."""
        self.documents += 1
        self.tokens += tokens
        self.bytes += num_bytes
        if time.monotonic() - self._last > _INTERVAL:
            self.report()

    def report(self) -> None:
        """Tells what was not told yet."""
        now = (self.documents, self.tokens, self.bytes)
        documents, tokens, num_bytes = (a - b for a, b in zip(now, self._reported, strict=True))
        self._reported = now
        self._last = time.monotonic()
        self._report(documents, tokens, num_bytes)
