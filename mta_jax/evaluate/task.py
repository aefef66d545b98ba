"""What every evaluation does around its own work: settings in, table and files out."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure
from rich.console import Console

from mta_jax.command_line import parse
from mta_jax.command_line.plain import plain
from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.kept_answers import answers_file
from mta_jax.files import check_new_folder, new_folder
from mta_jax.provenance import provenance

FIGURES_FILE, SAMPLES_FILE, TABLE_FILE = "figures.json", "samples.jsonl", "table.md"

Config = TypeVar("Config", bound=EvaluateConfig)


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an evaluation found.

    Attributes:
      tables: for people.
      rows: the figures in them, as plain values.
      samples: what each sample was, and what became of it, as plain values; none where figures
        are not made of samples.
      pictures: by the names of their files, without the ending.
    """

    tables: Sequence[Grid]
    rows: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)


def run_task(
    name: str,
    config_class: type[Config],
    evaluate: Callable[[Config], Findings],
    arguments: list[str],
    *,
    description: str,
) -> int:
    """Runs an evaluation as a command; returns 0.

    Args:
      name: of the task.
      config_class: its settings.
      evaluate: does the work.
      arguments: the command line after the task.
      description: what it does, for `--help`.
    """
    prog = f"mta_jax.evaluate {name}"
    config, _ = parse(
        config_class, arguments, prog=prog, description=description, has_dry_run=False
    )
    console = Console(highlight=False)
    output = None if config.output is None else Path(config.output).expanduser()
    if output is not None:
        # Before the work, not after it.
        check_new_folder(output, "output")
        kept = answers_file(output)
        if continued := kept.exists():
            console.print(f"Continuing with the answers in {kept}", soft_wrap=True)
    start = time.monotonic()
    findings = evaluate(config)
    seconds = time.monotonic() - start
    for table in findings.tables:
        console.print(table.table())
    if output is not None:
        # Of one that was continued, the seconds are those of its last part.
        made = provenance(command=prog, seconds=seconds) | {"continued": continued}
        write_findings(output, name, config, findings, made)
        kept.unlink(missing_ok=True)
        console.print(f"Written to {config.output}", soft_wrap=True)
    return 0


def write_findings(
    folder: Path,
    task: str,
    config: EvaluateConfig,
    findings: Findings,
    made: Mapping[str, Any],
) -> None:
    """Writes figures, samples, tables and pictures to a new folder.

    Raises:
      ConfigError: where the folder is there and not empty.
      UserError: where it cannot be written.
    """
    with new_folder(folder, "output") as path:
        content = {
            "task": task,
            "provenance": dict(made),
            "config": plain(config),
            "rows": [dict(row) for row in findings.rows],
        }
        (path / FIGURES_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        tables = "\n".join(table.markdown() for table in findings.tables)
        (path / TABLE_FILE).write_text(tables, encoding="utf-8")
        if findings.samples:
            lines = [json.dumps(sample, ensure_ascii=False) for sample in findings.samples]
            (path / SAMPLES_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, figure in findings.pictures.items():
            figure.savefig(path / f"{name}.png", dpi=130)
