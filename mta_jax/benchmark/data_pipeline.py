"""Tokens per second of the data pipeline alone, without a model.

The text is Python's own sources (about 12 MB), from JSON lines and from shards that
`python -m mta_jax.prepare` made, through the batches that a training step gets.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.progress import Progress
from rich.table import Table

from mta_jax.benchmark.command import run_command
from mta_jax.data import DataConfig, DomainConfig, TextConfig, load_data
from mta_jax.data.sources import standard_library
from mta_jax.prepare.config import PrepareConfig, TrainTokenizerConfig
from mta_jax.prepare.preparation import prepare

Source = Literal["bytes", "bpe", "prepared"]
Packing = Literal["concat", "best_fit"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataBenchmarkConfig:
    """What is measured."""

    sources: list[Source] = dataclasses.field(default_factory=lambda: ["prepared", "bytes", "bpe"])
    """prepared: shards of tokens. bytes: JSON lines, one token per byte. bpe: JSON lines,
    tokenised on the way."""

    packings: list[Packing] = dataclasses.field(default_factory=lambda: ["concat", "best_fit"])
    """How documents become rows."""

    sequence_length: int = 2048
    """Tokens per row."""

    batch_size: int = 32
    """Rows per batch."""

    vocab_size: int = 8192
    """Tokens of the byte-pair encoding, which is learned from the same text."""

    seconds: float = 10.0
    """Time of each measurement, after a first batch."""

    json: str | None = None
    """File for the figures; null: none."""

    def __post_init__(self) -> None:
        for name in ("sequence_length", "batch_size", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if not self.seconds > 0:
            raise ValueError(f"seconds {self.seconds}: must be above 0")
        for name in ("sources", "packings"):
            if not getattr(self, name):
                raise ValueError(f"{name} []: name at least one")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
      source: where the text is from.
      packing: how it becomes rows.
      tokens_per_second: tokens of the batches, padding aside, per second.
      tokens_per_core_second: the same, per second of processor time.
      padding: share of the batches that is padding.
    """

    source: str
    packing: str
    tokens_per_second: float
    tokens_per_core_second: float
    padding: float


def main(arguments: list[str]) -> int:
    """Runs the command; see `run_command`."""
    return run_command(
        arguments,
        DataBenchmarkConfig,
        name="data",
        description="Tokens per second of the data pipeline alone.",
        measure=measure,
        table=_table,
    )


def measure(config: DataBenchmarkConfig) -> list[Measurement]:
    """All rows, sources outermost."""
    rows = list(itertools.product(config.sources, config.packings))
    with tempfile.TemporaryDirectory(prefix="mta-jax-data-") as folder, Progress() as progress:
        texts = _texts(config, Path(folder))
        return [
            _measure(config, source, packing, texts[source])
            for source, packing in progress.track(rows, description="measuring")
        ]


def _texts(config: DataBenchmarkConfig, folder: Path) -> dict[Source, TextConfig]:
    lines = folder / "text.jsonl"
    with lines.open("w", encoding="utf-8") as file:
        for document in standard_library.code():
            if document.content:
                file.write(json.dumps({"text": document.content}) + "\n")
    tokens = folder / "tokens"
    # What it has to say is of another command.
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(
            PrepareConfig(
                input=str(lines),
                output=str(tokens),
                train_tokenizer=TrainTokenizerConfig(vocab_size=config.vocab_size),
            )
        )
    tokenizer = str(tokens / "tokenizer.json")

    def text(location: Path, tokenizer: str) -> TextConfig:
        return TextConfig(
            domains={"code": DomainConfig(train=str(location))},
            tokenizer=tokenizer,
            sequence_length=config.sequence_length,
        )

    return {
        "prepared": text(tokens, tokenizer),
        "bytes": text(lines, "byte"),
        "bpe": text(lines, tokenizer),
    }


def _measure(
    config: DataBenchmarkConfig, source: Source, packing: Packing, text: TextConfig
) -> Measurement:
    data = DataConfig(
        source="text",
        batch_size=config.batch_size,
        text=dataclasses.replace(text, packing=packing),
    )
    batches = iter(load_data(data, seed=0, held_out_rows=config.batch_size).train)
    next(batches)
    num_tokens = num_places = 0.0
    began, began_cpu = time.perf_counter(), time.process_time()
    for batch in _until(batches, began + config.seconds):
        num_tokens += float(batch["targets_weights"].sum())
        num_places += batch["targets_weights"].size
    seconds, core_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    batches.close()
    return Measurement(
        source=source,
        packing=packing,
        tokens_per_second=num_tokens / seconds,
        tokens_per_core_second=num_tokens / core_seconds,
        padding=1.0 - num_tokens / num_places,
    )


def _until(batches: Iterator[dict], deadline: float) -> Iterator[dict]:
    while time.perf_counter() < deadline:
        yield next(batches)


def _table(config: DataBenchmarkConfig, rows: list[Measurement], machine: dict[str, str]) -> Table:
    table = Table(
        title=f"Data pipeline, {config.batch_size} x {config.sequence_length:,} tokens a batch",
        caption=", ".join(f"{name} {value}" for name, value in machine.items()),
    )
    for name in ("source", "packing"):
        table.add_column(name)
    for name in ("tokens/s", "tokens/s per core", "padding"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.source,
            row.packing,
            f"{row.tokens_per_second:,.0f}",
            f"{row.tokens_per_core_second:,.0f}",
            f"{100 * row.padding:.1f} %",
        )
    return table
