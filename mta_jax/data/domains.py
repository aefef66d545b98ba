"""Text of a config, domain by domain: opened, split, tokenised, mixed."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from mta_jax.data.needles import NEEDLES, NeedleDocuments
from mta_jax.data.packing import framed, pack
from mta_jax.data.sources import (
    Document,
    DocumentStream,
    IndexedDocuments,
    Skips,
    Subset,
    common_folder,
    named_by,
    open_documents,
)
from mta_jax.data.streaming import StreamDataset
from mta_jax.data.text_config import DomainConfig, TextConfig
from mta_jax.data.tokenizers import Tokenizer, split_tokens
from mta_jax.errors import ConfigError

# One thread of its own reads ahead for a whole batch; a pool of threads for rows that cost
# microseconds of Python each only slows them down.
INLINE = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)

Source = IndexedDocuments | DocumentStream


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain, opened.

    Attributes:
      name: its name.
      weight: its weight, or None.
      train: training documents.
      held_out: held-out documents, or None. May be the very stream of `train`.
      is_held_out: says of a document's name whether it is held out of `train`.
      train_skips, held_out_skips: count what cannot be read.
    """

    name: str
    weight: float | None
    train: Source
    held_out: Source | None
    is_held_out: Callable[[str], bool]
    train_skips: Skips
    held_out_skips: Skips

    def summary(self) -> dict[str, Mapping[str, Any]]:
        """What tells its text from other text."""
        summaries = {self.name: self.train.summary()}
        if self.held_out is not None and self.held_out is not self.train:
            summaries[f"{self.name} (held out)"] = self.held_out.summary()
        return summaries


def open_domains(
    config: TextConfig, tokenizer: Tokenizer, *, only_held_out: bool = False
) -> list[Domain]:
    """Opens what the config names.

    Args:
      config: the domains.
      tokenizer: which tokens in files must be of.
      only_held_out: leave training text alone where held-out text has its own place, and
        give the held-out text for it.

    Raises:
      ConfigError: where a location names nothing, or nothing is left for training.
      UserError: where a file is damaged.
    """
    if not only_held_out:
        check_locations(config)
    return [
        _open_domain(name, domain, config, tokenizer, only_held_out)
        for name, domain in config.domains.items()
    ]


def check_locations(config: TextConfig) -> None:
    """Makes sure that all locations name something, and no text is trained on and held out.

    Raises:
      ConfigError: where they do not, or one is, or two domains would hold out parts of it.
    """
    trained: dict[str, str] = {}
    for name, domain in config.domains.items():
        if domain.weight == 0:
            continue
        setting = f"data.text.domains.{name}.train"
        for text in named_by(domain.train_locations, setting):
            if text in trained:
                raise ConfigError(f"{setting}: {text} is training text of {trained[text]} too")
            trained[text] = name
    for name, domain in config.domains.items():
        setting = f"data.text.domains.{name}.heldout"
        for text in named_by(domain.heldout_locations or (), setting):
            if text in trained:
                raise ConfigError(
                    f"{setting}: {text} is training text of {trained[text]}, which would learn it"
                )


def _open_domain(
    name: str,
    domain: DomainConfig,
    config: TextConfig,
    tokenizer: Tokenizer,
    only_held_out: bool,
) -> Domain:
    train_skips, held_out_skips = (Skips(name, config.max_skipped) for _ in range(2))
    setting = f"data.text.domains.{name}"

    def opened(locations: Sequence[str], field: str, skips: Skips) -> Source:
        if any(location.startswith(NEEDLES) for location in locations):
            return _needles(locations, domain.field, tokenizer, f"{setting}.{field}")
        source = open_documents(
            locations,
            field=domain.field,
            tokenizer=(tokenizer.fingerprint, tokenizer.vocab_size),
            setting=f"{setting}.{field}",
            skips=skips,
        )
        if isinstance(source, IndexedDocuments) and not len(source):
            raise ConfigError(f"{setting}.{field} {', '.join(locations)}: holds no document")
        return source

    def domain_of(
        train: Source,
        held_out: Source | None,
        is_held_out: Callable[[str], bool] = lambda _: False,
        weight: float | None = domain.weight,
    ) -> Domain:
        return Domain(name, weight, train, held_out, is_held_out, train_skips, held_out_skips)

    held_out: Source | None = None
    if domain.heldout_locations is not None:
        held_out = opened(domain.heldout_locations, "heldout", held_out_skips)
        if only_held_out:
            return domain_of(held_out, held_out, lambda _: True, weight=0.0)
    train = opened(domain.train_locations, "train", train_skips)
    if held_out is not None or not config.heldout_fraction:
        return domain_of(train, held_out)
    root = common_folder(domain.train_locations, f"{setting}.train")
    if isinstance(train, IndexedDocuments):
        return domain_of(*split_off(train, name, config.heldout_fraction, root=root))
    if config.heldout_rows is None:
        raise ConfigError(
            f"{setting}.heldout null: holding out a share of a stream reads all of it at each "
            "evaluation; name a heldout, or set data.text.heldout_rows, or "
            "data.text.heldout_fraction 0"
        )
    # A stream has no number of documents to take a share of.
    is_held_out = functools.partial(_is_below, name, config.heldout_fraction, root)
    return domain_of(train, train, is_held_out)


def _needles(locations: Sequence[str], field: str, tokenizer: Tokenizer, setting: str) -> Source:
    if len(locations) > 1:
        raise ConfigError(
            f"{setting} {', '.join(locations)}: needles are a domain of their own; name one "
            "location"
        )
    return NeedleDocuments(locations[0], tokenizer, setting, field=field)


def _digest(domain: str, document: str, root: str) -> int:
    # Where a folder lies does not decide what is held out of it: it may move.
    document = document.removeprefix(root)
    name = f"{domain}/{document}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")


def _is_below(domain: str, fraction: float, root: str, document: str) -> bool:
    return _digest(domain, document, root) < fraction * 2**64


def split_off(
    source: IndexedDocuments, domain: str, heldout_fraction: float, *, root: str = ""
) -> tuple[IndexedDocuments, IndexedDocuments]:
    """Splits documents into training and held-out ones, whole documents at a time.

    The held-out ones are those whose names have the smallest hashes, so the choice
    depends on nothing but the names.

    Args:
      source: the documents.
      domain: name of their domain.
      heldout_fraction: share to hold out; of few documents, one at least.
      root: beginning of the names that does not count.

    Returns:
      The training and the held-out documents, each in the given order.

    Raises:
      ConfigError: where no document is left for training.
    """
    names = map(source.name, range(len(source)))
    digests = np.fromiter((_digest(domain, n, root) for n in names), np.uint64, len(source))
    count = math.ceil(heldout_fraction * len(source))
    if count >= len(source):
        raise ConfigError(
            f"data.text.heldout_fraction {heldout_fraction}: holding out {count} of {len(source)} "
            f"documents of domain {domain} leaves none for training; give the domain a heldout of "
            "its own, or set 0"
        )
    is_held_out = np.zeros(len(source), bool)
    is_held_out[np.argsort(digests, kind="stable")[:count]] = True
    return (
        Subset(source, np.flatnonzero(~is_held_out)),
        Subset(source, np.flatnonzero(is_held_out)),
    )


def _tokens(tokenizer: Tokenizer, document: Document) -> np.ndarray:
    content = document.content
    if not isinstance(content, str):
        return framed(content, tokenizer)
    if not document.prompt:
        return framed(tokenizer.encode(content), tokenizer)
    given, (learned,) = split_tokens(tokenizer, document.prompt, [content])
    return framed(np.concatenate([given, learned]), tokenizer, num_given=len(given))


def training_rows(
    config: TextConfig,
    domains: Iterable[Domain],
    tokenizer: Tokenizer,
    *,
    seed: int,
    stream: tuple[int, int],
) -> grain.IterDataset:
    """Endless packed rows of a mixture of domains, shuffled.

    Args:
      config: how.
      domains: the domains.
      tokenizer: makes tokens of texts.
      seed: of every order.
      stream: its number and their count; each has a part of every domain.
    """
    domains = [domain for domain in domains if domain.weight != 0]
    weights = _weights(domains)
    sources = [
        _shuffled(domain, config, seed=(seed + index) % 2**32, stream=stream)
        for index, domain in enumerate(domains)
    ]
    tokenize = functools.partial(_tokens, tokenizer)

    def packed(documents: grain.MapDataset | grain.IterDataset) -> grain.IterDataset:
        return pack(
            as_stream(documents).map(tokenize), config.sequence_length, config.packing, seed=seed
        )

    if config.mixing == "rows":
        rows = _mixed([packed(source) for source in sources], weights)
    else:
        rows = packed(_mixed(sources, weights))
    return grain.experimental.WindowShuffleIterDataset(
        rows, window_size=-(-config.shuffle_rows // stream[1]), seed=seed
    )


def held_out_documents(domain: Domain, tokenizer: Tokenizer) -> grain.IterDataset | None:
    """Each held-out document once, as `packing.framed` makes it, in order; None of none."""
    if domain.held_out is None:
        return None
    if isinstance(domain.held_out, IndexedDocuments):
        documents = grain.MapDataset.source(domain.held_out).to_iter_dataset(INLINE)
    else:
        shares = domain.held_out is domain.train
        documents = StreamDataset(
            domain.held_out,
            domain.is_held_out if shares else lambda _: True,
            seed=None,
            endless=False,
            skips=domain.held_out_skips,
        )
    return documents.map(functools.partial(_tokens, tokenizer))


def as_stream(documents: grain.MapDataset | grain.IterDataset) -> grain.IterDataset:
    """The same elements one after the other."""
    if isinstance(documents, grain.MapDataset):
        return documents.to_iter_dataset(INLINE)
    return documents


def _shuffled(
    domain: Domain, config: TextConfig, *, seed: int, stream: tuple[int, int]
) -> grain.MapDataset | grain.IterDataset:
    index, count = stream
    if isinstance(domain.train, IndexedDocuments):
        if len(domain.train) < count:
            raise ConfigError(
                f"data.streams {count}: the {len(domain.train)} documents of domain {domain.name} "
                "are fewer"
            )
        endless = grain.MapDataset.source(domain.train).shuffle(seed=seed).repeat()
        return endless[index::count]
    documents = StreamDataset(
        domain.train,
        lambda name: not domain.is_held_out(name),
        seed=seed,
        endless=True,
        share=stream,
        skips=domain.train_skips,
    )
    return grain.experimental.WindowShuffleIterDataset(
        documents, window_size=config.shuffle_documents, seed=seed
    )


def _weights(domains: Sequence[Domain]) -> list[float]:
    """Given weights, or numbers of documents."""
    weights = []
    for domain in domains:
        if domain.weight is not None:
            weights.append(domain.weight)
        elif isinstance(domain.train, IndexedDocuments):
            weights.append(float(len(domain.train)))
        elif len(domains) == 1:
            weights.append(1.0)
        else:
            raise ConfigError(
                f"data.text.domains.{domain.name}.weight null: a stream does not tell its number "
                "of documents; give every domain a weight"
            )
    return weights


def _mixed(sources: Sequence[Any], weights: Sequence[float]) -> Any:
    if len(sources) == 1:
        return sources[0]
    if all(isinstance(source, grain.MapDataset) for source in sources):
        return grain.MapDataset.mix(sources, weights)
    return grain.IterDataset.mix([as_stream(source) for source in sources], weights)
