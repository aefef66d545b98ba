"""Documents to rows of tokens: split, shuffled, packed."""

import dataclasses
from collections.abc import Sequence

import grain
import numpy as np

from mta_jax.data.standard_library import Document, Domain
from mta_jax.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Language modelling on text that every Python carries."""

    domains: list[Domain] = dataclasses.field(default_factory=lambda: ["code", "docs"])
    """code: the standard library's sources; docs: the topics of Python's help."""

    sequence_length: int = 256
    """Tokens per row."""

    heldout_fraction: float = 0.03
    """Share of the documents that is held out, chosen by their names."""

    def __post_init__(self) -> None:
        if not self.domains or len(set(self.domains)) != len(self.domains):
            raise ValueError(
                f"data.text.domains {self.domains}: name at least one domain, each once"
            )
        if self.sequence_length < 2:
            raise ValueError(
                f"data.text.sequence_length {self.sequence_length}: must be at least 2"
            )
        if not 0.0 < self.heldout_fraction <= 0.5:
            raise ValueError(
                f"data.text.heldout_fraction {self.heldout_fraction}: must be above 0, at most 0.5"
            )


class PieceSource:
    """Random access to documents in pieces of at most `sequence_length` tokens.

    A document becomes ``BOS text EOS``, inputs and targets are that shifted by one,
    and both are cut into pieces, so that a shuffle mixes pieces of all documents.

    Args:
      texts: the documents.
      tokenizer: turns each into tokens.
      sequence_length: longest piece.
    """

    def __init__(self, texts: Sequence[Document], tokenizer: Tokenizer, sequence_length: int):
        self._tokens = [
            np.concatenate([[tokenizer.bos_id], tokenizer.encode(text.text), [tokenizer.eos_id]])
            for text in texts
        ]
        self._sequence_length = sequence_length
        pieces = [-(-(len(tokens) - 1) // sequence_length) for tokens in self._tokens]
        self._first_piece = np.concatenate([[0], np.cumsum(pieces)])

    def __len__(self) -> int:
        return int(self._first_piece[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Piece `index`: `inputs`, `targets` and `targets_weights`, of equal length."""
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        document = int(np.searchsorted(self._first_piece, index, side="right")) - 1
        start = (index - int(self._first_piece[document])) * self._sequence_length
        tokens = self._tokens[document][start : start + self._sequence_length + 1]
        return {
            "inputs": tokens[:-1].astype(np.int32),
            "targets": tokens[1:].astype(np.int32),
            "targets_weights": np.ones(len(tokens) - 1, np.float32),
        }


def packed_rows(pieces: grain.IterDataset, sequence_length: int) -> grain.IterDataset:
    """Packs pieces into full rows, with segment ids from 1 and positions that restart.

    Rows have `inputs`, `targets`, `targets_weights`, `inputs_segment_ids` and
    `inputs_positions`, each [sequence_length]; segment 0 is padding.
    """
    features = ("inputs", "targets", "targets_weights")
    rows = grain.experimental.ConcatThenSplitIterDataset(
        pieces,
        length_struct=dict.fromkeys(features, sequence_length),
        # Full pieces pass as they are; only the ends of documents are joined.
        split_full_length_features=False,
    )
    kept = (*features, "inputs_segment_ids", "inputs_positions")
    return rows.map(lambda row: {name: row[name] for name in kept})
