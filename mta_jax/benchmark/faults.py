"""A drill: a run that is killed again and again must end as one that is left alone.

A tiny language model is trained twice, once undisturbed, and once in processes that are
disturbed at random moments and started again with the same command:

=============  =============================================================
kill           SIGKILL while it trains
kill_in_start  SIGKILL before it trains, or as it begins to
kill_in_save   SIGKILL while a checkpoint is incomplete
terminate      SIGTERM, as schedulers send it
disk_full      writes to large files fail from some moment on
=============  =============================================================
"""

import contextlib
import dataclasses
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mta_jax.benchmark.disturbed_run import (
    Disturbance,
    Kind,
    TrainingProcess,
    disturb,
    finish,
    undisturbed,
)
from mta_jax.command_line import parse
from mta_jax.command_line.live_line import LiveLine
from mta_jax.command_line.plain import to_yaml
from mta_jax.data import DataConfig, DomainConfig, TextConfig
from mta_jax.data.sources import standard_library
from mta_jax.errors import UserError
from mta_jax.files import check_figures, write_figures
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.training.config import CheckpointConfig, OptimizerConfig, SampleConfig, TrainConfig
from mta_jax.training.records import METRICS_FILE
from mta_jax.training.saved_weights import read_weights

LOG_EVERY = 3
SAVE_EVERY = 6

# Steps of the run for each disturbance.
_STRETCH = 3 * SAVE_EVERY


_EXIT_CODES: dict[Kind, int] = {
    "kill": -9,
    "kill_in_start": -9,
    "kill_in_save": -9,
    "terminate": 0,
    "disk_full": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """What is done to the run."""

    kills: int = 20
    """How often it is disturbed."""

    kinds: list[Kind] = dataclasses.field(default_factory=lambda: list(_EXIT_CODES))
    """In what ways, each about as often."""

    seed: int = 0
    """Decides the order of the kinds, and the moments."""

    asynchronous: bool = True
    """Whether the run goes on training while a checkpoint is written (checkpoint.asynchronous)."""

    folder: str | None = None
    """New or empty folder for both runs; null: a temporary one."""

    json: str | None = None
    """File for the figures; null: none."""

    def __post_init__(self) -> None:
        if self.kills < 1:
            raise ValueError(f"kills {self.kills}: must be at least 1")
        if not self.kinds:
            raise ValueError("kinds []: name at least one")

    @property
    def most_lost(self) -> int:
        """Steps that a process may lose.

        Those since its last save, and, where it goes on meanwhile, those that it took while that
        save was still being written: it begins no save before the last is complete.
        """
        return 2 * SAVE_EVERY if self.asynchronous else SAVE_EVERY


def main(arguments: list[str]) -> int:
    """Runs the drill, prints its table, and writes the JSON file that is asked for; returns 0.

    Raises:
      UserError: where the run did not survive as it should, a file cannot be written, or this
        is not Linux.
    """
    config, _ = parse(
        FaultsConfig,
        arguments,
        prog="mta_jax.benchmark faults",
        description="Kill a training run again and again, and compare it with one left alone.",
        has_dry_run=False,
    )
    if sys.platform != "linux":
        raise UserError("the drill disturbs processes in ways that only Linux offers")
    if config.json:
        check_figures(config.json)
    with _folder_of(config) as folder:
        disturbances, problems = drill(config, folder)
    console = Console(highlight=False)
    console.print(_table(disturbances))
    console.print(_summary(disturbances, config.most_lost), soft_wrap=True)
    if config.json:
        content = {
            "config": dataclasses.asdict(config),
            "most_lost": config.most_lost,
            "disturbances": [dataclasses.asdict(row) | {"lost": row.lost} for row in disturbances],
            "problems": problems,
        }
        write_figures(config.json, content)
    if problems:
        raise UserError("; ".join(problems))
    console.print("Metrics and final parameters are those of the undisturbed run, bit for bit.")
    return 0


@contextlib.contextmanager
def _folder_of(config: FaultsConfig) -> Iterator[Path]:
    if config.folder is None:
        with tempfile.TemporaryDirectory(prefix="mta-jax-faults-") as name:
            yield Path(name)
        return
    folder = Path(config.folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"folder {folder}: is not empty; choose a new or empty one")
    yield folder


def _write_capitals(path: Path) -> None:
    """Text for a second domain, without the time that reading more of Python's would take."""
    with path.open("w", encoding="utf-8") as file:
        for document in standard_library.docs():
            file.write(json.dumps({"text": str(document.content).upper()}) + "\n")


def run_config(config: FaultsConfig, capitals: Path) -> TrainConfig:
    """The run: every random stream, two domains, packed documents, accumulated gradients.

    Args:
      config: what will be done to it.
      capitals: text of the second domain.
    """
    return TrainConfig(
        num_steps=(config.kills + 4) * _STRETCH,
        log_every=LOG_EVERY,
        evaluate_every=8 * LOG_EVERY,
        accumulate=2,
        model=ModelConfig(
            num_layers=1,
            embed_dim=64,
            num_heads=2,
            mlp_dim=128,
            attention_dropout=0.1,
            mta=MTAConfig(pre_kq_kernel_size=(2, 3), post_kq_kernel_size=None),
        ),
        data=DataConfig(
            source="text",
            batch_size=8,
            text=TextConfig(
                domains={
                    "docs": DomainConfig(train="python:docs", weight=0.7),
                    "capitals": DomainConfig(train=str(capitals), weight=0.3),
                },
                packing="best_fit",
                sequence_length=32,
                shuffle_rows=64,
                heldout_rows=8,
            ),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
        checkpoint=CheckpointConfig(every=SAVE_EVERY, asynchronous=config.asynchronous),
        sample=SampleConfig(every=16 * LOG_EVERY, prompt="The ", num_tokens=8),
    )


def drill(config: FaultsConfig, folder: Path) -> tuple[list[Disturbance], list[str]]:
    """Trains both runs.

    Returns:
      What was done to the second run, and what is wrong with it: a line each.

    Raises:
      UserError: where a process ends when nothing was done to it.
    """
    settings, capitals = folder / "config.yaml", folder / "capitals.jsonl"
    _write_capitals(capitals)
    settings.write_text(to_yaml(run_config(config, capitals)), encoding="utf-8")

    def start(name: str, number: int = 0) -> TrainingProcess:
        return TrainingProcess(
            ["--config", str(settings)],
            folder / name,
            folder / f"{name}_{number}.log",
            folder / "compiled",
        )

    whole, disturbed = folder / "undisturbed", folder / "disturbed"
    pace = undisturbed(lambda: start("undisturbed"), whole)
    rng = random.Random(config.seed)
    kinds = [config.kinds[number % len(config.kinds)] for number in range(config.kills)]
    rng.shuffle(kinds)
    problems: list[str] = []
    ends: list[tuple[Kind, int, int, bool]] = []
    resumptions: list[int | None] = []
    with LiveLine("faults", config.kills, unit="disturbances") as progress:
        for number, kind in enumerate(kinds):
            target = number * _STRETCH + rng.randrange(_STRETCH)
            with start("disturbed", number) as process:
                reached, code = disturb(process, kind, target, pace, rng)
            ends.append((kind, reached, code, process.has_unfinished_save()))
            problems += _problems_of_start(process, number)
            said = process.continued_from()
            # One killed in its start may not have come to say anything.
            resumptions.append(0 if said is None and kind != "kill_in_start" else said)
            progress.update(number + 1, f"{kind} at step {reached}")
        with start("disturbed", config.kills) as process:
            finish(process)
    problems += _problems_of_start(process, config.kills)
    resumptions.append(process.continued_from() or 0)
    disturbances = []
    for number, (kind, reached, code, cut_save) in enumerate(ends, 1):
        resumed = next(step for step in resumptions[number:] if step is not None)
        disturbances.append(Disturbance(kind, reached, resumed, code, cut_save))
    problems += _problems_of(disturbances, config.most_lost)
    return disturbances, problems + differences(whole, disturbed)


def _problems_of_start(process: TrainingProcess, number: int) -> list[str]:
    said = process.continued_from()
    if said in (None, process.saved_before):
        return []
    return [f"process {number} continued from step {said}; {process.saved_before} was saved"]


def _problems_of(disturbances: Sequence[Disturbance], most_lost: int) -> list[str]:
    problems = []
    for number, row in enumerate(disturbances):
        where = f"disturbance {number} ({row.kind} at step {row.reached})"
        expected = _EXIT_CODES[row.kind]
        if row.exit_code != expected:
            problems.append(f"{where}: ended with {row.exit_code}, must be {expected}")
        most = 0 if row.kind == "terminate" else most_lost
        if row.lost > most:
            problems.append(f"{where}: {row.lost} steps lost, must be at most {most}")
    return problems


def differences(whole: Path, disturbed: Path) -> list[str]:
    """How the results of two run folders differ, a line for each kind of result."""
    problems = []
    if (whole / METRICS_FILE).read_bytes() != (disturbed / METRICS_FILE).read_bytes():
        problems.append(f"{METRICS_FILE} differs from that of the undisturbed run")
    leaves = [
        jax.tree_util.tree_flatten_with_path(read_weights(folder, "run").params)[0]
        for folder in (whole, disturbed)
    ]
    differing = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, a), (_, b) in zip(*leaves, strict=True)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]
    if differing:
        problems.append(f"{len(differing)} parameters differ, {differing[0]} among them")
    return problems


def _table(disturbances: Sequence[Disturbance]) -> Table:
    table = Table(
        title="A run disturbed, and continued by the same command",
        caption=f"Steps; logged every {LOG_EVERY}, saved every {SAVE_EVERY}.",
    )
    table.add_column("kind", no_wrap=True)
    for name in ("reached", "continued", "lost", "exit", "save cut"):
        table.add_column(name, justify="right")
    for row in disturbances:
        values: tuple[Any, ...] = (row.reached, row.resumed, row.lost, row.exit_code)
        table.add_row(row.kind, *map(str, values), "yes" if row.cut_save else "")
    return table


def _summary(disturbances: Sequence[Disturbance], most_lost: int) -> str:
    counts = Counter(row.kind for row in disturbances)
    lost = [row.lost for row in disturbances]
    between = sum(row.resumed % LOG_EVERY > 0 for row in disturbances)
    return (
        f"{len(disturbances)} disturbances ("
        + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        + f"): {sum(lost)} steps lost, at most {max(lost)} at once ({most_lost} may be); "
        f"{sum(row.cut_save for row in disturbances)} saves cut off; {between} times continued "
        "between two lines of metrics"
    )
