"""Config to batches.

A batch is a dictionary of arrays [rows, row_length]:

=====================  =======  =================================================
inputs                 int32    token ids
targets                int32    the token that follows each input
targets_weights        float32  weight of each target in the loss; 0 is padding, or given
inputs_segment_ids     int32    document of each token, packed rows only
inputs_positions       int32    position in its document, packed rows only
=====================  =======  =================================================
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import grain

from mta_jax.data.block_search import BlockSearchSource
from mta_jax.data.config import DataConfig
from mta_jax.data.domains import (
    INLINE,
    Domain,
    check_locations,
    held_out_documents,
    open_domains,
    training_rows,
)
from mta_jax.data.packing import pack, unpack
from mta_jax.data.sources import Skips
from mta_jax.data.streams import StreamedBatches
from mta_jax.data.text_config import TextConfig
from mta_jax.data.tokenizers import LetterTokenizer, Tokenizer, load_tokenizer
from mta_jax.errors import ConfigError

# Batches made ahead of the training step, on a thread of their own, at least, and rows at most.
_PREFETCH, _MOST_ROWS = 4, 4096


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One held-out set.

    Attributes:
      batches: every held-out token once, as far as the config says; the last batch is
        padded with weight 0.
      documents: each document as `packing.framed` makes it; None for the toy task.
    """

    batches: grain.IterDataset
    documents: grain.IterDataset | None


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything a run reads.

    Attributes:
      train: endless batches of this process's rows; its iterator's state is a
        position (see `data.streams`).
      held_out: held-out sets by name.
      tokenizer: text to tokens and back.
      summary: what tells the content from other content under the same settings: of each
        part files, bytes, documents and a digest, and the tokenizer's fingerprint.
      skips: counts of what training could not read, by domain.
    """

    train: grain.IterDataset
    held_out: Mapping[str, HeldOut]
    tokenizer: Tokenizer
    summary: Mapping[str, Any]
    skips: Mapping[str, Skips] = dataclasses.field(default_factory=dict)


def tokenizer_for(config: DataConfig) -> Tokenizer:
    """The tokenizer that belongs to a data source.

    Raises:
      ConfigError: where its file cannot be used.
    """
    if config.source == "block_search":
        return LetterTokenizer()
    text = config.text
    try:
        return load_tokenizer(text.tokenizer, bos_token=text.bos_token, eos_token=text.eos_token)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None


def check_data(config: DataConfig) -> None:
    """Makes sure that what a config names is there, without reading it.

    Raises:
      ConfigError: where a tokenizer or a location names nothing.
    """
    tokenizer_for(config)
    if config.source == "text":
        check_locations(config.text)


def load_data(
    config: DataConfig,
    *,
    seed: int,
    held_out_rows: int,
    rows: tuple[int, int] | None = None,
) -> Data:
    """Opens the data of a run. The same arguments give the same batches.

    Args:
      config: what to read.
      seed: of every order.
      held_out_rows: rows in a batch of an evaluation.
      rows: first and end of those rows of a training batch that are wanted; default: all.

    Raises:
      ConfigError: where a source is missing, or has less than the streams need.
      UserError: where a source is damaged.
    """
    load = _block_search if config.source == "block_search" else _text
    return load(config, seed, held_out_rows, rows or (0, config.rows))


def _block_search(config: DataConfig, seed: int, held_out_rows: int, rows: tuple[int, int]) -> Data:
    def source_of(split: Literal["train", "heldout"]) -> BlockSearchSource:
        return BlockSearchSource(config.block_search, split=split, seed=seed)

    sources = {"train": source_of("train"), "heldout": source_of("heldout")}
    train = grain.MapDataset.source(sources["train"]).shuffle(seed=seed).repeat()

    def stream(number: int) -> grain.IterDataset:
        return train[number :: config.streams].to_iter_dataset(INLINE)

    held_out = grain.MapDataset.source(sources["heldout"]).to_iter_dataset(INLINE)
    first_rows = [source[0]["inputs"].tobytes() for source in sources.values()]
    return Data(
        train=_train_batches(config, stream, rows),
        held_out={"heldout": HeldOut(_padded(held_out, held_out_rows), documents=None)},
        tokenizer=LetterTokenizer(),
        # The same seed draws the same samples, unless NumPy changes its random numbers.
        summary={"samples": {"digest": hashlib.sha256(b"".join(first_rows)).hexdigest()}},
    )


def _text(config: DataConfig, seed: int, held_out_rows: int, rows: tuple[int, int]) -> Data:
    text, tokenizer = config.text, tokenizer_for(config)
    domains = open_domains(text, tokenizer)

    def stream(number: int) -> grain.IterDataset:
        packed = training_rows(text, domains, tokenizer, seed=seed, stream=(number, config.streams))
        return unpack(packed, separate_documents=text.separate_documents)

    summary: dict[str, Any] = {"tokenizer": {"digest": tokenizer.fingerprint}}
    for domain in domains:
        summary |= domain.summary()
    return Data(
        # A window of shuffled rows comes all at once, after a pause as long.
        train=_train_batches(config, stream, rows, num_ahead=text.shuffle_rows),
        held_out=_held_out(text, domains, tokenizer, held_out_rows),
        tokenizer=tokenizer,
        summary=summary,
        skips={domain.name: domain.train_skips for domain in domains},
    )


def _train_batches(
    config: DataConfig,
    stream: Callable[[int], grain.IterDataset],
    rows: tuple[int, int],
    *,
    num_ahead: int = 0,
) -> grain.IterDataset:
    """Batches of some rows, made ahead on a thread of their own, some `num_ahead` rows.

    Args:
      config: tells the rows of a batch, and the number of streams.
      stream: makes the rows of a stream from its number.
      rows: first and end of the wanted rows of each batch.
      num_ahead: rows.
    """
    per_stream = config.rows // config.streams
    first, end = rows[0] // per_stream, -(-rows[1] // per_stream)
    streams = {
        number: stream(number).batch(per_stream, drop_remainder=True)
        for number in range(first, end)
    }
    wanted = (rows[0] - first * per_stream, rows[1] - first * per_stream)
    num_batches = max(_PREFETCH, min(num_ahead, _MOST_ROWS) // config.rows)
    return grain.experimental.ThreadPrefetchIterDataset(
        StreamedBatches(streams, wanted), prefetch_buffer_size=num_batches
    )


def load_held_out(config: DataConfig) -> tuple[dict[str, HeldOut], Tokenizer]:
    """Opens only the held-out text of a config; its training text may be elsewhere.

    Args:
      config: of source text. Its rows are those of a batch.

    Raises:
      ConfigError: where a source is missing.
      UserError: where a source is damaged.
    """
    tokenizer = tokenizer_for(config)
    domains = open_domains(config.text, tokenizer, only_held_out=True)
    return _held_out(config.text, domains, tokenizer, config.rows), tokenizer


def _held_out(
    config: TextConfig, domains: Sequence[Domain], tokenizer: Tokenizer, rows_of_batch: int
) -> dict[str, HeldOut]:
    held_out = {}
    for domain in domains:
        documents = held_out_documents(domain, tokenizer)
        if documents is None:
            continue
        rows = pack(documents, config.sequence_length, config.packing, seed=0)
        rows = unpack(rows, separate_documents=config.separate_documents)
        if config.heldout_rows is not None:
            rows = grain.experimental.LimitIterDataset(rows, config.heldout_rows)
        held_out[domain.name] = HeldOut(_padded(rows, rows_of_batch), documents)
    return held_out


def _padded(rows: grain.IterDataset, batch_size: int) -> grain.IterDataset:
    pad = functools.partial(grain.experimental.batch_and_pad, batch_size=batch_size)
    return rows.batch(batch_size, batch_fn=pad)
