"""What text a language model reads, and how it becomes rows."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """Text of one kind, whose perplexity is reported by itself.

    A location is a file, a folder, a glob (``**`` for any folders), ``hf:NAME?OPTIONS`` for
    a Hugging Face data set, or ``python:code``, ``python:docs`` and ``python:docstrings``, which
    every Python carries. Files are .txt and .md (one document each), .jsonl (also .gz, .zst),
    .parquet, and .array_record as `python -m mta_jax.prepare` writes them. A domain may also be
    ``needles:TEXT?OPTIONS`` (docs/evaluate.md): facts hidden in text, and questions about them.
    """

    train: str | list[str]
    """Locations of training text."""

    heldout: str | list[str] | None = None
    """Locations of held-out text; null: a share of the training text, heldout_fraction."""

    weight: float | None = None
    """How likely the next document is of this domain, against the other domains' weights; 0:
    held-out only. null for all: in proportion to their numbers of documents."""

    field: str = "text"
    """Field or column that holds the text, where there are several."""

    @property
    def train_locations(self) -> list[str]:
        """As a list."""
        return [self.train] if isinstance(self.train, str) else self.train

    @property
    def heldout_locations(self) -> list[str] | None:
        """As a list."""
        return [self.heldout] if isinstance(self.heldout, str) else self.heldout


# Metrics are named by domains, and by these.
_TAKEN = ("kernels", "gates", "tokenizer")


def _python_text() -> dict[str, DomainConfig]:
    return {name: DomainConfig(train=f"python:{name}") for name in ("code", "docs")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Language modelling on text."""

    domains: dict[str, DomainConfig] = dataclasses.field(default_factory=_python_text)
    """Domains by name, each with train, heldout, weight and field."""

    tokenizer: str = "byte"
    """byte, or a file: tokenizer.json of Hugging Face, a SentencePiece model, or a tiktoken
    ranks file (Llama 3's tokenizer.model)."""

    bos_token: str | None = None
    """Token that begins a document, where the tokenizer's file does not tell."""

    eos_token: str | None = None
    """Token that ends a document, where the tokenizer's file does not tell."""

    sequence_length: int = 256
    """Tokens per row."""

    heldout_fraction: float = 0.03
    """Share of a domain's documents that is held out, chosen by their names, where it has no
    `heldout` of its own; 0: none."""

    heldout_rows: int | None = None
    """Most rows of a held-out set that an evaluation reads; null: all."""

    packing: Literal["concat", "best_fit"] = "concat"
    """How documents become rows, held-out ones too: concat (end to end, cut where a row is full)
    or best_fit (a document is cut only where it is longer than a row; rows may end in padding)."""

    mixing: Literal["documents", "rows"] = "documents"
    """What the weights of domains choose: the next document, as in the paper, or the next row,
    which makes them shares of the tokens."""

    separate_documents: bool = True
    """Attention and kernels stop at the borders of documents. The paper's code lets them
    cross."""

    shuffle_documents: int = 2_000
    """Documents of a stream among which the next is drawn; what is indexed is shuffled as a
    whole."""

    shuffle_rows: int = 1_024
    """Rows among which the next is drawn, so that a long document does not fill a batch."""

    max_skipped: float = 0.01
    """Share of unreadable documents that is borne; each is counted, the first are reported."""

    def __post_init__(self) -> None:
        self._check_domains()
        if self.sequence_length < 2:
            raise ValueError(
                f"data.text.sequence_length {self.sequence_length}: must be at least 2"
            )
        if not 0.0 <= self.heldout_fraction <= 0.5:
            raise ValueError(
                f"data.text.heldout_fraction {self.heldout_fraction}: must be in [0, 0.5]"
            )
        for name in ("shuffle_documents", "shuffle_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.text.{name} {getattr(self, name)}: must be at least 1")
        if self.heldout_rows is not None and self.heldout_rows < 1:
            raise ValueError(
                f"data.text.heldout_rows {self.heldout_rows}: must be at least 1, or null"
            )
        if not 0.0 <= self.max_skipped <= 1.0:
            raise ValueError(f"data.text.max_skipped {self.max_skipped}: must be in [0, 1]")

    def _check_domains(self) -> None:
        if not self.domains:
            raise ValueError("data.text.domains {}: name at least one domain")
        for name, domain in self.domains.items():
            where = f"data.text.domains.{name}"
            if not name or set(name) & set("/(") or name in _TAKEN:
                raise ValueError(
                    f"{where}: a domain's name must have no '/' or '(' and be none of "
                    f"{', '.join(_TAKEN)}"
                )
            for field in ("train", "heldout"):
                locations = getattr(domain, f"{field}_locations")
                if locations is not None and (not locations or not all(locations)):
                    raise ValueError(
                        f"{where}.{field} {getattr(domain, field)!r}: name at least one location"
                    )
            if domain.weight is not None and not 0 <= domain.weight < math.inf:
                raise ValueError(f"{where}.weight {domain.weight}: must be at least 0, and finite")
        weights = {name: domain.weight for name, domain in self.domains.items()}
        given = [weight for weight in weights.values() if weight is not None]
        if given and len(given) < len(weights):
            missing = next(name for name, weight in weights.items() if weight is None)
            raise ValueError(
                f"data.text.domains.{missing}.weight null: other domains have weights, so it needs "
                "one too"
            )
        if given and not any(given):
            raise ValueError("data.text.domains: all weights are 0; one must be above")
