"""Config to batches.

A batch is a dictionary of arrays [batch_size, row_length]:

=====================  =======  =================================================
inputs                 int32    token ids
targets                int32    the token that follows each input
targets_weights        float32  weight of each target in the loss; 0 is padding
inputs_segment_ids     int32    document of each token, packed rows only
inputs_positions       int32    position in its document, packed rows only
=====================  =======  =================================================
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import grain
import numpy as np

from mta_jax.data import standard_library, text
from mta_jax.data.block_search import BlockSearchSource
from mta_jax.data.config import DataConfig
from mta_jax.data.standard_library import Document
from mta_jax.data.tokenizers import ByteTokenizer, LetterTokenizer, Tokenizer

Batch = Mapping[str, np.ndarray]

# Batches made ahead of the training step, on one thread of their own: rows cost
# microseconds of Python each, which a pool of reader threads only slows down.
_PREFETCH = 4
_INLINE = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One held-out set.

    Attributes:
      batches: every held-out token once; the last batch is padded with weight 0.
      num_bytes: bytes of text that its targets stand for; None where that means
        nothing.
    """

    batches: grain.IterDataset
    num_bytes: int | None


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything a run reads.

    Attributes:
      train: endless batches; its iterator's state is a checkpointable position.
      held_out: held-out sets by name.
      tokenizer: text to tokens and back.
      fingerprint: a hash of the content. Settings alone do not decide it: the text is
        that of the running Python, and NumPy may change its random numbers.
    """

    train: grain.IterDataset
    held_out: Mapping[str, HeldOut]
    tokenizer: Tokenizer
    fingerprint: str


def tokenizer_for(config: DataConfig) -> Tokenizer:
    """The tokenizer that belongs to a data source."""
    return LetterTokenizer() if config.source == "block_search" else ByteTokenizer()


def load_data(config: DataConfig, *, seed: int) -> Data:
    """Opens the data of a run. The same config and seed give the same batches.

    Raises:
      FileNotFoundError: where a source is missing.
    """
    load = _block_search if config.source == "block_search" else _text
    return load(config, seed)


def _block_search(config: DataConfig, seed: int) -> Data:
    def source_of(split: Literal["train", "heldout"]) -> BlockSearchSource:
        return BlockSearchSource(config.block_search, split=split, seed=seed)

    sources = {"train": source_of("train"), "heldout": source_of("heldout")}
    train = (
        grain.MapDataset.source(sources["train"])
        .shuffle(seed=seed)
        .repeat()
        .to_iter_dataset(_INLINE)
    )
    held_out = grain.MapDataset.source(sources["heldout"]).to_iter_dataset(_INLINE)
    return Data(
        train=_batched(train, config.batch_size),
        held_out={"heldout": HeldOut(_padded(held_out, config.batch_size), num_bytes=None)},
        tokenizer=LetterTokenizer(),
        fingerprint=_hash(source[0]["inputs"].tobytes() for source in sources.values()),
    )


def _text(config: DataConfig, seed: int) -> Data:
    tokenizer = ByteTokenizer()
    length = config.text.sequence_length
    training_documents: list[Document] = []
    contents: list[bytes] = []
    held_out: dict[str, HeldOut] = {}
    for domain in config.text.domains:
        found = standard_library.documents(domain)
        contents += [part.encode() for each in found for part in (each.name, each.text)]
        train, kept = standard_library.split_off(found, config.text.heldout_fraction)
        training_documents += train
        pieces = grain.MapDataset.source(text.PieceSource(kept, tokenizer, length))
        rows = text.packed_rows(pieces.to_iter_dataset(_INLINE), length)
        held_out[domain] = HeldOut(
            _padded(rows, config.batch_size),
            num_bytes=sum(len(document.text.encode()) for document in kept),
        )
    pieces = grain.MapDataset.source(text.PieceSource(training_documents, tokenizer, length))
    rows = text.packed_rows(pieces.shuffle(seed=seed).repeat().to_iter_dataset(_INLINE), length)
    return Data(
        train=_batched(rows, config.batch_size),
        held_out=held_out,
        tokenizer=tokenizer,
        fingerprint=_hash(contents),
    )


def _hash(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _batched(rows: grain.IterDataset, batch_size: int) -> grain.IterDataset:
    batches = rows.batch(batch_size, drop_remainder=True)
    return grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=_PREFETCH)


def _padded(rows: grain.IterDataset, batch_size: int) -> grain.IterDataset:
    pad = functools.partial(grain.experimental.batch_and_pad, batch_size=batch_size)
    return rows.batch(batch_size, batch_fn=pad)
