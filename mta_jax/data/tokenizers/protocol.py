"""What the trainer needs of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def name(self) -> str:
        """A few words for people: "byte", "tokenizer.json (32,000 tokens)"."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, those included that no token has: the highest plus one."""

    @property
    def bos_id(self) -> int:
        """Token that begins a document."""

    @property
    def eos_id(self) -> int:
        """Token that ends a document; some vocabularies have one token for both."""

    @property
    def fingerprint(self) -> str:
        """Tells tokenizers apart that may turn the same text into different ids."""

    @property
    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of the text that each token stands for, int32 [vocab_size].

        0 for special tokens. Read-only. Over the tokens of a text they add up to its
        bytes, except where the tokenizer itself changes the text: a space in front, as
        many SentencePiece models put it there, counts; what a normalization takes away,
        and what an unknown token stands for, does not.
        """

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int32 [tokens], without begin and end.

        The names of special tokens in a text are text. Surrogates, which are no
        characters, are joined where they are pairs, and U+FFFD where they are alone.
        """

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of token ids [tokens]; begin, end and other special tokens vanish.

        Bytes that are no UTF-8, such as a part of a character, become U+FFFD.

        Raises:
          ValueError: for an id outside the vocabulary.
        """
