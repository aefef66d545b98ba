"""What tokenizers from a file have in common."""

import abc
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mta_jax.data.optional import optional_library
from mta_jax.data.tokenizers.checks import frozen_lengths, known_ids, well_formed

_SHOWN_TOKENS = 12


class FileTokenizer(abc.ABC):
    """A tokenizer of another library's, read from its file.

    Pickled, it is a path: the file is read again, and has to be the same.

    Args:
      spec: path of the file.
      bos_token: special token that begins a document; None takes the usual one.
      eos_token: special token that ends a document; None takes the usual one.

    Attributes:
      name: file name and vocabulary size.
      vocab_size: highest id plus one.
      bos_id: token that begins a document.
      eos_id: token that ends a document.
      fingerprint: SHA-256 of the file, and of bos_token and eos_token where given.

    Raises:
      OSError: where the file cannot be read.
      ValueError: where it is none of the library's, or has no such begin or end.
    """

    vocab_size: int
    _special: Mapping[str, int]  # by name

    def __init__(self, spec: str, bos_token: str | None = None, eos_token: str | None = None):
        self._spec = spec
        self._bos_token = bos_token
        self._eos_token = eos_token
        content = Path(spec).read_bytes()
        digest = hashlib.sha256(content)
        if (bos_token, eos_token) != (None, None):
            digest.update(repr((bos_token, eos_token)).encode())
        self.fingerprint = digest.hexdigest()
        self._open(content)
        self.name = f"{Path(spec).name} ({self.vocab_size:,} tokens)"
        bos_id, eos_id = self._usual_ends()
        self.bos_id = self._end("bos_token", bos_token, bos_id)
        self.eos_id = self._end("eos_token", eos_token, eos_id)
        self._vanishing = frozenset([*self._special.values(), self.bos_id, self.eos_id])

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int32 [tokens], without begin and end."""
        return np.array(self._to_ids(well_formed(text)), np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of token ids; special tokens vanish, broken characters become U+FFFD.

        Raises:
          ValueError: for an id outside the vocabulary.
        """
        ids = known_ids(tokens, self.vocab_size)
        return self._to_text([token for token in ids if token not in self._vanishing])

    @functools.cached_property
    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of text per token, int32 [vocab_size]; 0 for special tokens."""
        lengths = self._lengths()
        for token in self._vanishing:
            lengths[token] = 0
        return frozen_lengths(lengths)

    def __reduce__(self) -> tuple[Callable[..., "FileTokenizer"], tuple[Any, ...]]:
        arguments = (self._spec, self._bos_token, self._eos_token)
        return _read_again, (type(self), arguments, self.fingerprint)

    @abc.abstractmethod
    def _open(self, content: bytes) -> None:
        """Sets `vocab_size`, `_special` and whatever else is needed."""

    @abc.abstractmethod
    def _usual_ends(self) -> tuple[int | None, int | None]:
        """Begin and end of a document where the caller names none; None: unknown."""

    @abc.abstractmethod
    def _to_ids(self, text: str) -> Sequence[int]:
        """Ids of a text that UTF-8 can hold."""

    @abc.abstractmethod
    def _to_text(self, ids: list[int]) -> str:
        """Text of ids in the vocabulary, none of them special."""

    @abc.abstractmethod
    def _lengths(self) -> list[int]:
        """Byte lengths [vocab_size]; those of special tokens do not matter."""

    def _library(self, name: str) -> Any:
        return optional_library(name, needed_by=f"data.text.tokenizer {self._spec}")

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"data.text.tokenizer {self._spec}: {problem}")

    def _end(self, field: str, token: str | None, usual: int | None) -> int:
        if token is not None:
            # An ordinary token would vanish from texts.
            if token not in self._special:
                raise self._error(
                    f"{field} {token!r}: must be one of its special tokens: {self._shown()}"
                )
            return self._special[token]
        if usual is None:
            verb = "begins" if field == "bos_token" else "ends"
            raise self._error(
                f"which token {verb} a document? Set {field} to one of its special tokens: "
                f"{self._shown()}"
            )
        return usual

    def _shown(self) -> str:
        names = [repr(name) for name in self._special]
        if len(names) > _SHOWN_TOKENS:
            names = [*names[:_SHOWN_TOKENS], f"{len(names) - _SHOWN_TOKENS} more"]
        return ", ".join(names) or "(it has none)"


def first_line(error: BaseException) -> str:
    """An error of another library's as a part of one line."""
    return next(iter(str(error).splitlines()), type(error).__name__).strip()


def _read_again(
    kind: type[FileTokenizer],
    arguments: tuple[str, str | None, str | None],
    fingerprint: str,
) -> FileTokenizer:
    tokenizer = kind(*arguments)
    if tokenizer.fingerprint != fingerprint:
        raise ValueError(f"data.text.tokenizer {arguments[0]}: the file has changed meanwhile")
    return tokenizer
