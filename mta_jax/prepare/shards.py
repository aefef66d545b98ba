"""One shard: written under another name, in its place when it is complete."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from mta_jax.data.sources.array_records import UNFINISHED
from mta_jax.errors import UserError
from mta_jax.files import TEMPORARY
from mta_jax.prepare.units import Position

# Any record is read at once, without others around it.
_OPTIONS = "group_size:1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What is known of a piece of a unit that is complete: a shard, or no document at all.

    Attributes:
      unit, number: which piece it is.
      file: name of its shard; None where no document is in it.
      size: bytes of the file.
      sha256: of the file.
      documents, tokens: in it.
      bytes: of their text, in UTF-8.
      skipped: documents that could not be read.
      skipped_in: of them, those in the worst files.
      reasons: what is wrong with the first of them.
      following: where the next piece of the unit begins; None: there is none.
    """

    unit: int
    number: int
    file: str | None
    size: int
    sha256: str | None
    documents: int
    tokens: int
    bytes: int
    skipped: int
    skipped_in: dict[str, int]
    reasons: list[str]
    following: Position | None


class Shard:
    """The file of a piece, which is there once something is in it.

    Args:
      folder: of all shards.
      unit, number: the piece.
      dtype: of tokens.
    """

    def __init__(self, folder: Path, unit: int, number: int, dtype: str):
        name = f"{unit:06d}-{number:04d}.array_record"
        self._path = folder / name
        # A killed process may live a moment longer than the next one's start.
        self._temporary = folder / UNFINISHED / f"{name}.{os.getpid()}{TEMPORARY}"
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._writer: Any = None

    def add(self, tokens: np.ndarray) -> None:
        """Adds a document's tokens [tokens].

        Raises:
          UserError: where the file cannot be written.
        """
        try:
            if self._writer is None:
                self._writer = ArrayRecordWriter(str(self._temporary), _OPTIONS)
            self._writer.write(tokens.astype(self._dtype).tobytes())
        except RuntimeError as error:
            raise self._failed(error) from None

    def finish(self) -> dict[str, Any]:
        """Puts the file in its place.

        Returns:
          Its `file`, `size` and `sha256`.

        Raises:
          UserError: where the file cannot be written.
        """
        if self._writer is None:
            return {"file": None, "size": 0, "sha256": None}
        try:
            self._writer.close()
        except RuntimeError as error:
            raise self._failed(error) from None
        with self._temporary.open("rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._temporary.replace(self._path)
        return {"file": self._path.name, "size": self._path.stat().st_size, "sha256": digest}

    def discard(self) -> None:
        """Removes what is not complete."""
        self._temporary.unlink(missing_ok=True)

    def _failed(self, error: RuntimeError) -> UserError:
        reason = " ".join(str(error).split()).split(";")[0]
        return UserError(
            f"{self._path}: cannot be written ({reason}); the same command continues from here"
        )
