"""What was prepared, and how training is told of it."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from mta_jax.prepare.config import PrepareConfig
from mta_jax.prepare.vocabulary import location_of

_REASONS = 3


@dataclasses.dataclass(frozen=True)
class Effort:
    """What this command did itself, which may have continued another.

    Attributes:
      seconds: of making shards.
      bytes: of text that went into them.
    """

    seconds: float
    bytes: int


def show(config: PrepareConfig, manifest: Mapping[str, Any], effort: Effort | None = None) -> None:
    """Prints a table of sums, and lines for a training config.

    Args:
      config: the settings.
      manifest: what was written.
      effort: what that took; None: nothing was left to do.
    """
    totals = manifest["totals"]
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "documents": f"{totals['documents']:,}",
        "tokens": f"{totals['tokens']:,}",
        "bytes of text": f"{totals['bytes']:,}",
        "bytes per token": f"{totals['bytes'] / totals['tokens']:.3f}",
        "skipped": f"{totals['skipped']:,}",
        "shards": f"{totals['shards']:,}",
        "tokenizer": manifest["tokenizer"]["name"],
    }
    if effort is not None:
        rows["seconds"] = f"{effort.seconds:.1f}"
        rows["MB/s"] = f"{effort.bytes / 1e6 / effort.seconds:.1f}"
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(table)
    for reason in manifest["skipped"][:_REASONS]:
        console.print(f"skipped: {reason}", markup=False, soft_wrap=True)
    console.print("\n" + training_lines(config), markup=False, soft_wrap=True)


def training_lines(config: PrepareConfig) -> str:
    """YAML that makes training read the shards."""
    folder = Path(config.output).expanduser()
    text: dict[str, Any] = {"tokenizer": location_of(config)}
    for name in ("bos_token", "eos_token"):
        if (value := getattr(config, name)) is not None:
            text[name] = value
    text["domains"] = {folder.resolve().name: {"train": str(folder)}}
    content = {"data": {"source": "text", "text": text}}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf).rstrip()
