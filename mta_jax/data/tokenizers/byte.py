"""UTF-8 bytes as tokens."""

from collections.abc import Sequence

import numpy as np

from mta_jax.data.tokenizers.checks import frozen_lengths, known_ids, well_formed


class ByteTokenizer:
    """UTF-8 bytes as tokens 0 to 255, then the begin and the end of a document.

    Example:
      >>> tokenizer = ByteTokenizer()
      >>> tokenizer.encode("Ada").tolist()
      [65, 100, 97]
      >>> tokenizer.decode([65, 100, 97, tokenizer.eos_id])
      'Ada'
    """

    name = "byte"
    fingerprint = "byte"
    vocab_size = 258
    bos_id = 256
    eos_id = 257
    byte_lengths = frozen_lengths([1] * 256 + [0, 0])

    def encode(self, text: str) -> np.ndarray:
        """UTF-8 bytes of the text, int32 [bytes]; lone surrogates become U+FFFD."""
        return np.frombuffer(well_formed(text).encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of the bytes; bytes that are no UTF-8 become U+FFFD.

        Raises:
          ValueError: for an id outside the vocabulary.
        """
        ids = known_ids(tokens, self.vocab_size)
        return bytes(token for token in ids if token < 256).decode(errors="replace")
