"""The letters of the paper's toy task as tokens."""

import string
from collections.abc import Sequence

import numpy as np

from mta_jax.data.tokenizers.checks import frozen_lengths, known_ids


class LetterTokenizer:
    """The 32 tokens of the paper's block search: a-z, separators, begin and end."""

    name = "letters"
    fingerprint = "letters"
    vocab_size = 32
    bos_id = 29
    eos_id = 30
    alphabet: Sequence[str] = string.ascii_lowercase + ".#_"
    byte_lengths = frozen_lengths([1] * 29 + [0] * 3)

    def encode(self, text: str) -> np.ndarray:
        """One token per character, int32 [characters].

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
        """One character per token; begin and end vanish.

        Raises:
          ValueError: for an id outside the vocabulary.
        """
        ids = known_ids(tokens, self.vocab_size)
        return "".join(self.alphabet[token] for token in ids if token < len(self.alphabet))
