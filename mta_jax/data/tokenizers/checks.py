"""What every tokenizer does with its input first."""

from collections.abc import Sequence

import numpy as np


def well_formed(text: str) -> str:
    """The text as one that UTF-8 can hold: lone surrogates become U+FFFD, pairs one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def known_ids(tokens: Sequence[int] | np.ndarray, vocab_size: int) -> list[int]:
    """The ids [tokens] as a list.

    Raises:
      ValueError: for an id outside the vocabulary.
    """
    ids = [int(token) for token in tokens]
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ValueError(f"token {token}: the vocabulary has ids 0 to {vocab_size - 1}")
    return ids


def frozen_lengths(lengths: Sequence[int]) -> np.ndarray:
    """Byte lengths as a read-only array, int32 [vocab_size]."""
    array = np.array(lengths, np.int32)
    array.setflags(write=False)
    return array
