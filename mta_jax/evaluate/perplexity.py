"""Perplexity by domain, of one or several trained models."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.progress import Progress

from mta_jax.data import Batch, DomainConfig, HeldOut, Tokenizer, load_held_out
from mta_jax.errors import ConfigError
from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.task import Findings, run_task
from mta_jax.evaluate.text_model import folders_of, kind_of, names_of
from mta_jax.evaluate.windows import strided_batches
from mta_jax.training.config import TrainConfig
from mta_jax.training.evaluate import Totals, total
from mta_jax.training.saved_weights import (
    SavedWeights,
    check_tokenizer,
    read_weights,
)
from mta_jax.training.step import make_eval_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityConfig(EvaluateConfig):
    """What to evaluate, and how."""

    protocol: Literal["strided", "paper"] = "strided"
    """strided: each document alone, every token once, with at least sequence_length - stride
    tokens before it where there are so many. paper: documents packed end to end into rows, so
    that a token may have any number of tokens before it."""

    stride: int | None = None
    """Tokens between the windows of the strided protocol; null: half of sequence_length."""

    rows: int | None = None
    """Most rows of a domain in the paper's protocol, which took 1,024; null: as in training."""

    sequence_length: int | None = None
    """Tokens per row; null: as in training."""

    allow_extrapolation: bool = False
    """Rows may be longer than those a model was made for."""

    texts: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)
    """Locations of held-out text by domain, in place of the run's own: files, folders, globs or
    hf:NAME."""

    field: str = "text"
    """Field or column that holds the text of `texts`, where there are several."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stride", "rows", "sequence_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1, or null")
        if self.protocol == "paper" and self.stride is not None:
            raise ValueError(f"stride {self.stride}: the paper's protocol has none; leave it out")
        if self.protocol == "strided" and self.rows is not None:
            raise ValueError(f"rows {self.rows}: the strided protocol takes all; leave it out")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      name: of the model, for tables.
      checkpoint: its folder.
      kind: its kind of attention.
      step: training steps behind it.
      domain: name of the held-out text, or "mean" over the domains, as in the paper's tables.
      tokens: predicted tokens.
      text_bytes: bytes of text that they stand for.
      loss: nats per token.
      perplexity: per token.
      bits_per_byte: bits per byte of text.
    """

    name: str
    checkpoint: str
    kind: str
    step: int
    domain: str
    tokens: int
    text_bytes: int
    loss: float
    perplexity: float
    bits_per_byte: float


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    return run_task(
        "perplexity",
        PerplexityConfig,
        _findings,
        arguments,
        description="Perplexity of held-out text, by domain.",
    )


def _findings(config: PerplexityConfig) -> Findings:
    rows = evaluate_perplexity(config)
    return Findings(tables=[_table(config, rows)], rows=[dataclasses.asdict(row) for row in rows])


def evaluate_perplexity(config: PerplexityConfig) -> list[Row]:
    """All lines of the table, those of a checkpoint together.

    Raises:
      ConfigError: where a setting does not suit a checkpoint.
      UserError: where a checkpoint or a text cannot be read.
    """
    rows = []
    folders = folders_of(
        config,
        longest=config.sequence_length or 0,
        setting="sequence_length",
        allow_extrapolation=config.allow_extrapolation,
    )
    for folder, name in zip(folders, names_of(folders), strict=True):
        rows += _rows_of(name, read_weights(folder, "checkpoint"), config)
    return rows


def _rows_of(name: str, saved: SavedWeights, config: PerplexityConfig) -> list[Row]:
    run = saved.program.config
    held_out, tokenizer = _held_out(saved, config)
    length = config.sequence_length or run.data.row_length
    stride = config.stride or max(length // 2, 1)
    if stride > length:
        raise ConfigError(f"stride {stride}: must be at most the sequence_length {length}")
    batch_rows = config.batch_size or run.held_out_rows
    eval_step = make_eval_step(saved.program)
    rows = []
    with Progress(transient=True) as progress:
        for domain, part in progress.track(held_out.items(), description=str(saved.folder)):
            batches: Iterable[Batch] = part.batches
            if config.protocol == "strided":
                documents = part.documents or ()
                batches = strided_batches(documents, length=length, stride=stride, rows=batch_rows)
            totals = total(eval_step, saved.params, batches, tokenizer, name=domain)
            rows.append(_row(name, saved, domain, totals))
    if len(rows) > 1:
        rows.append(_mean(rows))
    return rows


def _held_out(
    saved: SavedWeights, config: PerplexityConfig
) -> tuple[dict[str, HeldOut], Tokenizer]:
    run: TrainConfig = saved.program.config
    text = run.data.text
    changes: dict = {"packing": "concat"}
    if config.rows is not None:
        changes["heldout_rows"] = config.rows
    if config.sequence_length is not None:
        changes["sequence_length"] = config.sequence_length
    if config.texts:
        changes["domains"] = {
            name: DomainConfig(train=locations, heldout=locations, field=config.field)
            for name, locations in config.texts.items()
        }
    try:
        data = dataclasses.replace(
            run.data,
            text=dataclasses.replace(text, **changes),
            batch_tokens=None,
            batch_size=config.batch_size or run.held_out_rows,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    held_out, tokenizer = load_held_out(data)
    check_tokenizer(saved, tokenizer, "checkpoint")
    if not held_out:
        raise ConfigError(
            f"checkpoint {saved.folder}: its run has no held-out text; name some by texts"
        )
    return held_out, tokenizer


def _row(name: str, saved: SavedWeights, domain: str, totals: Totals) -> Row:
    return Row(
        name=name,
        checkpoint=str(saved.folder),
        kind=kind_of(saved),
        step=saved.step,
        domain=domain,
        tokens=totals.tokens,
        text_bytes=totals.text_bytes,
        loss=totals.loss,
        perplexity=totals.perplexity,
        bits_per_byte=totals.bits_per_byte,
    )


def _mean(rows: list[Row]) -> Row:
    """The arithmetic mean of the domains' figures."""
    return dataclasses.replace(
        rows[0],
        domain="mean",
        tokens=sum(row.tokens for row in rows),
        text_bytes=sum(row.text_bytes for row in rows),
        loss=statistics.fmean(row.loss for row in rows),
        perplexity=statistics.fmean(row.perplexity for row in rows),
        bits_per_byte=statistics.fmean(row.bits_per_byte for row in rows),
    )


def _table(config: PerplexityConfig, rows: Sequence[Row]) -> Grid:
    lines = []
    shown = None
    for row in rows:
        is_first, shown = row.checkpoint != shown, row.checkpoint
        lines.append(
            [
                f"{row.name}, step {row.step:,}" if is_first else "",
                row.kind if is_first else "",
                row.domain,
                f"{row.tokens:,}",
                f"{row.loss:.4f}",
                f"{row.perplexity:.3f}",
                f"{row.bits_per_byte:.4f}",
            ]
        )
    return Grid(
        title=f"Perplexity of held-out text ({config.protocol} protocol)",
        columns=["checkpoint", "kind", "text", "tokens", "loss", "perplexity", "bits per byte"],
        rows=lines,
        num_words=3,
    )
