"""Documents of tokens to rows of one length.

A document becomes ``BOS text EOS``, and its elements are pairs of a token and the one
that follows it, with whether that is to be learned. Packing moves pairs, so no pair crosses
a border of documents.
"""

from typing import Any, Literal

import grain
import numpy as np

from mta_jax.data.tokenizers import Tokenizer

# More bins leave less padding and mix rows of more documents.
_BINS = 64

_PAIRS, _SEGMENTS, _POSITIONS = "pairs", "pairs_segment_ids", "pairs_positions"


def framed(tokens: np.ndarray, tokenizer: Tokenizer, *, num_given: int = 0) -> np.ndarray:
    """A document's tokens between those of its begin and its end.

    Args:
      tokens: of the text, [tokens].
      tokenizer: tells the others.
      num_given: first tokens of the text that are not to be learned.

    Returns:
      int32 [tokens + 2, 2]: each token, and 1 where it is to be learned, else 0.
    """
    rows = np.ones((len(tokens) + 2, 2), np.int32)
    rows[0, 0], rows[1:-1, 0], rows[-1, 0] = tokenizer.bos_id, tokens, tokenizer.eos_id
    rows[: num_given + 1, 1] = 0
    return rows


def pack(
    documents: grain.IterDataset,
    length: int,
    packing: Literal["concat", "best_fit"],
    *,
    seed: int,
) -> grain.IterDataset:
    """Packs documents, each an array as `framed` makes it, into rows.

    Args:
      documents: the documents.
      length: T, pairs in a row.
      packing: concat joins documents end to end and cuts where a row is full; best_fit cuts
        only documents longer than a row, and puts each piece where it leaves least room.
      seed: of the order in which best_fit hands out rows.
    """
    pairs = documents.map(_pairs)
    if packing == "concat":
        return _RestoredFromJson(
            grain.experimental.ConcatThenSplitIterDataset(pairs, length_struct={_PAIRS: length})
        )
    return grain.experimental.BestFitPackIterDataset(
        grain.experimental.FlatMapIterDataset(pairs, _CutTo(length)),
        length_struct={_PAIRS: length},
        num_packing_bins=_BINS,
        seed=seed,
    )


def unpack(rows: grain.IterDataset, *, separate_documents: bool) -> grain.IterDataset:
    """Makes the arrays of a batch's row, each [T], of packed rows.

    They are `inputs`, `targets`, `targets_weights` (0 is padding, or given), and, where documents
    are separate, `inputs_segment_ids` (from 1, 0 is padding) and `inputs_positions`, which restart
    with each document.
    """

    def arrays(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pairs, segments = row[_PAIRS], row[_SEGMENTS]
        unpacked = {
            "inputs": pairs[:, 0],
            "targets": pairs[:, 1],
            "targets_weights": np.where(segments > 0, pairs[:, 2], 0).astype(np.float32),
        }
        if separate_documents:
            unpacked |= {"inputs_segment_ids": segments, "inputs_positions": row[_POSITIONS]}
        return unpacked

    return rows.map(arrays)


class _RestoredFromJson(grain.IterDataset):
    """Concatenation whose position may have been JSON.

    Grain 0.2.18 compares tuples in its state, and checkpoints bring them back as lists: it
    would take a whole document for the rest of one, and leave it out.
    """

    def __iter__(self) -> "_RestoredFromJsonIterator":
        return _RestoredFromJsonIterator(self._parent.__iter__())

    def __str__(self) -> str:
        return "RestoredFromJson"


class _RestoredFromJsonIterator(grain.DatasetIterator):
    def __next__(self) -> Any:
        return next(self._parent)

    def get_state(self) -> dict[str, Any]:
        return self._parent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        slices = {name: tuple(places) for name, places in state["remainder_slices"].items()}
        self._parent.set_state({**state, "remainder_slices": slices})

    def __str__(self) -> str:
        return "RestoredFromJsonIterator"


def _pairs(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {_PAIRS: np.concatenate([rows[:-1, :1], rows[1:]], axis=1)}


class _CutTo(grain.experimental.FlatMapTransform):
    """Cuts a document into pieces that fit a row."""

    max_fan_out = 2**31

    def __init__(self, length: int):
        self._length = length

    def flat_map(self, element: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        pairs = element[_PAIRS]
        return [
            {_PAIRS: pairs[start : start + self._length]}
            for start in range(0, len(pairs), self._length)
        ]
