"""Text to token ids and back."""

import string
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tokenizer(Protocol):
    """What the trainer needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def bos_id(self) -> int:
        """Token that begins a document."""

    @property
    def eos_id(self) -> int:
        """Token that ends a document."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int32, without begin and end."""

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of token ids; begin and end of document vanish."""


class ByteTokenizer:
    """UTF-8 bytes as tokens 0 to 255, then the begin and the end of a document."""

    vocab_size = 258
    bos_id = 256
    eos_id = 257

    def encode(self, text: str) -> np.ndarray:
        """UTF-8 bytes of the text, int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of the bytes; bytes that are no UTF-8 become U+FFFD."""
        return bytes(int(token) for token in tokens if token < 256).decode(errors="replace")


class LetterTokenizer:
    """The 32 tokens of the paper's block search: a-z, separators, begin and end."""

    vocab_size = 32
    bos_id = 29
    eos_id = 30
    alphabet: Sequence[str] = string.ascii_lowercase + ".#_"

    def encode(self, text: str) -> np.ndarray:
        """One token per character, int32.

        Raises:
          ValueError: for a character outside the alphabet.
        """
        try:
            return np.array([self.alphabet.index(character) for character in text], np.int32)
        except ValueError:
            unknown = sorted(set(text) - set(self.alphabet))
            raise ValueError(
                f"characters {unknown}: block search knows a-z and '.', '#', '_' only"
            ) from None

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """One character per token; begin and end vanish."""
        return "".join(self.alphabet[token] for token in tokens if token < len(self.alphabet))
