"""Perplexity by domain, of one or several trained models."""

import dataclasses
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mta_jax.command_line import parse
from mta_jax.data import Batch, DomainConfig, HeldOut, Tokenizer, load_held_out
from mta_jax.errors import ConfigError
from mta_jax.evaluate.windows import strided_batches
from mta_jax.files import check_figures, write_figures
from mta_jax.training.config import TrainConfig
from mta_jax.training.evaluate import Totals, total
from mta_jax.training.saved_weights import (
    SavedWeights,
    check_tokenizer,
    owner_of,
    read_weights,
)
from mta_jax.training.step import make_eval_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityConfig:
    """What to evaluate, and how."""

    checkpoint: str | list[str]
    """Run folders, whose newest checkpoints are taken, RUN/checkpoints/STEP, or folders of
    weights."""

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

    batch_size: int | None = None
    """Rows at a time; null: as in training."""

    texts: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)
    """Locations of held-out text by domain, in place of the run's own: files, folders, globs or
    hf:NAME."""

    field: str = "text"
    """Field or column that holds the text of `texts`, where there are several."""

    json: str | None = None
    """File for the figures; null: none."""

    def __post_init__(self) -> None:
        for name in ("stride", "rows", "sequence_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1, or null")
        if not self.checkpoints:
            raise ValueError(f"checkpoint {self.checkpoint}: name at least one")
        if self.protocol == "paper" and self.stride is not None:
            raise ValueError(f"stride {self.stride}: the paper's protocol has none; leave it out")
        if self.protocol == "strided" and self.rows is not None:
            raise ValueError(f"rows {self.rows}: the strided protocol takes all; leave it out")

    @property
    def checkpoints(self) -> list[str]:
        """As a list."""
        return [self.checkpoint] if isinstance(self.checkpoint, str) else self.checkpoint


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      checkpoint: the checkpoint's folder.
      kind: its kind of attention.
      step: training steps behind it.
      domain: name of the held-out text, or "mean" over the domains, as in the paper's tables.
      tokens: predicted tokens.
      text_bytes: bytes of text that they stand for.
      loss: nats per token.
      perplexity: per token.
      bits_per_byte: bits per byte of text.
    """

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
    config, _ = parse(
        PerplexityConfig,
        arguments,
        prog="mta_jax.evaluate perplexity",
        description="Perplexity of held-out text, by domain.",
        has_dry_run=False,
    )
    if config.json:
        check_figures(config.json)
    rows = evaluate_perplexity(config)
    Console().print(_table(config, rows))
    if config.json:
        content = {
            "config": dataclasses.asdict(config),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        write_figures(config.json, content)
    return 0


def evaluate_perplexity(config: PerplexityConfig) -> list[Row]:
    """All lines of the table, those of a checkpoint together.

    Raises:
      ConfigError: where a setting does not suit a checkpoint.
      UserError: where a checkpoint or a text cannot be read.
    """
    rows = []
    for location in config.checkpoints:
        saved = read_weights(location, "checkpoint")
        rows += _rows_of(saved, config)
    return rows


def _rows_of(saved: SavedWeights, config: PerplexityConfig) -> list[Row]:
    run = saved.program.config
    if run.data.source != "text":
        raise ConfigError(
            f"checkpoint {saved.folder}: was trained on data.source {run.data.source}, which has "
            "no text"
        )
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
            rows.append(_row(saved, domain, totals))
    if len(rows) > 1:
        rows.append(_mean(rows))
    return rows


def _held_out(
    saved: SavedWeights, config: PerplexityConfig
) -> tuple[dict[str, HeldOut], Tokenizer]:
    run: TrainConfig = saved.program.config
    text = run.data.text
    changes: dict = {}
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


def _row(saved: SavedWeights, domain: str, totals: Totals) -> Row:
    kind = saved.program.config.model.attention
    return Row(
        checkpoint=str(saved.folder),
        kind=kind if isinstance(kind, str) else "mixed",
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


def _table(config: PerplexityConfig, rows: list[Row]) -> Table:
    table = Table(title=f"Perplexity of held-out text ({config.protocol} protocol)")
    table.add_column("checkpoint", overflow="fold")
    for name in ("kind", "text"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens", "loss", "perplexity", "bits per byte"):
        table.add_column(name, justify="right")
    shown = None
    for row in rows:
        first = row.checkpoint != shown
        if first and shown is not None:
            table.add_section()
        shown = row.checkpoint
        table.add_row(
            f"{owner_of(Path(row.checkpoint)).name}, step {row.step:,}" if first else "",
            row.kind if first else "",
            row.domain,
            f"{row.tokens:,}",
            f"{row.loss:.4f}",
            f"{row.perplexity:.3f}",
            f"{row.bits_per_byte:.4f}",
        )
    return table
