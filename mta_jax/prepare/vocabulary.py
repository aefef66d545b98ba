"""The tokenizer: given, or learned from the input."""

from collections.abc import Iterator
from pathlib import Path

from mta_jax.data.sources import Document, IndexedDocuments
from mta_jax.data.tokenizers import Tokenizer, load_tokenizer, train_bpe
from mta_jax.errors import ConfigError
from mta_jax.prepare.config import PrepareConfig
from mta_jax.prepare.units import Source

LEARNED = "tokenizer.json"


def location_of(config: PrepareConfig) -> str:
    """The setting for `load_tokenizer`."""
    if config.train_tokenizer.vocab_size is None:
        return config.tokenizer
    return str(Path(config.output).expanduser() / LEARNED)


def load(config: PrepareConfig) -> Tokenizer:
    """The tokenizer of the settings, which is there.

    Raises:
      ConfigError: where its file cannot be used.
    """
    try:
        return load_tokenizer(
            location_of(config), bos_token=config.bos_token, eos_token=config.eos_token
        )
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error).removeprefix("data.text.")) from None


def learn(config: PrepareConfig, source: Source) -> None:
    """Learns a tokenizer from documents all over a source.

    Raises:
      ConfigError: where it cannot be learned.
      UserError: where documents cannot be read.
    """
    vocab_size = config.train_tokenizer.vocab_size
    assert vocab_size is not None
    texts = sample(source, config.train_tokenizer.sample_documents)
    try:
        train_bpe(texts, vocab_size, Path(location_of(config)))
    except ValueError as error:
        raise ConfigError(f"train_tokenizer.{error}") from None


def sample(source: Source, count: int) -> Iterator[str]:
    """Texts from all over a source: evenly spaced ones, or the first ones of each part.

    Args:
      source: the source.
      count: texts, at most.
    """
    for document in _documents(source, count):
        if document is not None and isinstance(document.content, str):
            yield document.content


def _documents(source: Source, count: int) -> Iterator[Document | None]:
    if isinstance(source, IndexedDocuments):
        count = min(count, len(source))
        for index in range(count):
            yield source[index * len(source) // count]
        return
    parts = range(len(source.parts))
    if count < len(parts):
        parts = range(0, len(parts), -(-len(parts) // count))
    for number, part in enumerate(parts):
        # What a short part leaves, the later ones have more of.
        quota = -(-count // (len(parts) - number))
        for _, document in source.read(part, 0):
            yield document
            count -= 1
            quota -= 1
            if not quota:
                break
