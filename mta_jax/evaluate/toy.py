"""The paper's table 1: how often the block-search task goes wrong."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.progress import Progress

from mta_jax import viz
from mta_jax.data import Batch, load_data
from mta_jax.errors import ConfigError
from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.paper import TABLE_1, TABLE_1_COLUMNS
from mta_jax.evaluate.task import Findings, run_task
from mta_jax.evaluate.text_model import described_on, kind_of, names_of
from mta_jax.training.config import TrainConfig
from mta_jax.training.evaluate import total
from mta_jax.training.saved_weights import (
    Description,
    SavedWeights,
    read_weights,
)
from mta_jax.training.state import make_program
from mta_jax.training.step import make_eval_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(EvaluateConfig):
    """Whole-answer error of runs on the block-search task."""

    dropout: float | None = None
    """Attention dropout during the evaluation: the paper's code leaves its baseline's, 0.1, on;
    null: none."""

    seed: int = 0
    """Decides what dropout drops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout is not None and not 0 < self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}: must be in (0, 1), or null")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: must be at least 0")


@dataclasses.dataclass(frozen=True)
class Row:
    """One checkpoint.

    Attributes:
      model: its name.
      kind: of attention.
      block_size, answer: the column.
      num_blocks: in a sample.
      seed: of its run.
      step: training steps behind it.
      samples: held-out samples.
      wrong: how many are answered wrong: greedy decoding misses a letter or the end.
      error: share of them.
      loss: nats per token of the answer and its end.
    """

    model: str
    kind: str
    block_size: int
    answer: str
    num_blocks: int
    seed: int
    step: int
    samples: int
    wrong: int
    error: float
    loss: float


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    return run_task(
        "toy",
        ToyConfig,
        evaluate_toy,
        arguments,
        description="The paper's table 1: wrong answers to the block-search task.",
    )


def evaluate_toy(config: ToyConfig) -> Findings:
    """The errors of all checkpoints.

    Raises:
      ConfigError: where a checkpoint is not of the task, one counts twice, or those of a column
        have samples of different sizes.
      UserError: where one cannot be read.
    """
    described = described_on("block_search", config)
    _check(described)
    folders = [one.folder for one in described]
    rows = []
    with Progress(transient=True) as progress:
        named = list(zip(folders, names_of(folders), strict=True))
        for folder, name in progress.track(named, description="toy"):
            rows.append(_row(read_weights(folder, "checkpoint"), name, config))
    return Findings(
        tables=[error_grid(rows, dropout=config.dropout), _paper_grid()],
        rows=[dataclasses.asdict(row) for row in rows],
        pictures={"errors": viz.answer_errors(errors_by_column(rows))},
    )


def _row(saved: SavedWeights, name: str, config: ToyConfig) -> Row:
    program, run = saved.program, saved.program.config
    rows = config.batch_size or run.held_out_rows
    data = load_data(run.data, seed=run.seed, held_out_rows=rows)
    if config.dropout is not None:
        model = dataclasses.replace(run.model, attention_dropout=config.dropout)
        program = make_program(dataclasses.replace(run, model=model))
    eval_step = _with_dropout(make_eval_step(program), config)
    batches = data.held_out["heldout"].batches
    totals = total(eval_step, saved.params, batches, data.tokenizer, name=name)
    task = run.data.block_search
    return Row(
        model=name,
        kind=kind_of(saved),
        block_size=task.block_size,
        answer=task.answer,
        num_blocks=task.num_blocks,
        seed=run.seed,
        step=saved.step,
        samples=totals.rows,
        wrong=totals.wrong_rows,
        error=totals.wrong_rows / totals.rows,
        loss=totals.loss,
    )


def _with_dropout(step: Callable[..., Any], config: ToyConfig) -> Callable[[Any, Batch], Any]:
    """The step with a key of its own for each batch, where there is dropout."""
    if config.dropout is None:
        return step
    keys = (jax.random.fold_in(jax.random.key(config.seed), n) for n in itertools.count())
    return lambda params, batch: step(params, batch, next(keys))


def _check(described: Sequence[Description]) -> None:
    """Makes sure that the runs of a cell of the table differ in their seeds and nothing else.

    Raises:
      ConfigError: where they do not.
    """
    columns: dict[tuple, Description] = {}
    cells: dict[tuple, dict[int, Description]] = {}
    for one in described:
        run = one.program.config
        task = run.data.block_search
        column = (task.block_size, task.answer)
        first = columns.setdefault(column, one)
        num_blocks = first.program.config.data.block_search.num_blocks
        if task.num_blocks != num_blocks:
            raise ConfigError(
                f"checkpoint {one.folder}: has {task.num_blocks} blocks in a sample, and "
                f"{first.folder} of the same column {_column(*column)} has {num_blocks}; "
                "evaluate them apart"
            )
        cell = cells.setdefault((*column, str(run.model.attention), one.step), {})
        if run.seed in cell:
            raise ConfigError(
                f"checkpoint {one.folder}: is of the kind, task, steps and seed {run.seed} of "
                f"{cell[run.seed].folder}; leave one out"
            )
        other = next(iter(cell.values()), one)
        name = _difference(run, other.program.config)
        if name:
            raise ConfigError(
                f"checkpoint {one.folder}: {name} is another than that of {other.folder}, and "
                "runs of one cell may differ in their seeds only; evaluate them apart"
            )
        cell[run.seed] = one


def _difference(run: TrainConfig, other: TrainConfig) -> str | None:
    """The section in which two runs differ so that their figures are not to be averaged."""
    sections = ("model", "data", "optimizer", "finetune", "loss", "num_steps", "init_from")
    return next((s for s in sections if getattr(run, s) != getattr(other, s)), None)


def errors_by_column(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Errors of the seeds by what trained them, and by column."""
    several = len({row.step for row in rows}) > 1
    errors: dict[str, dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: (row.kind != "transformer", row.kind, row.step)):
        name = f"{row.kind}, {row.step:,} steps" if several else row.kind
        column = _column(row.block_size, row.answer)
        errors.setdefault(name, {}).setdefault(column, []).append(row.error)
    others = {column for own in errors.values() for column in own} - set(TABLE_1_COLUMNS)
    in_order = [*TABLE_1_COLUMNS, *sorted(others)]
    return {
        name: {column: own[column] for column in in_order if column in own}
        for name, own in errors.items()
    }


def error_grid(rows: Sequence[Row], *, dropout: float | None) -> Grid:
    """Mean errors by column.

    Args:
      rows: all checkpoints.
      dropout: of attention in the evaluation; None: none.
    """
    errors = errors_by_column(rows)
    columns = list(dict.fromkeys(column for own in errors.values() for column in own))
    sizes = sorted({row.num_blocks for row in rows})
    counts = sorted({len(values) for own in errors.values() for values in own.values()})
    how = "" if dropout is None else f" Attention dropout {dropout} in evaluation."
    return Grid(
        title="Wrong answers, %",
        columns=["attention", *columns],
        rows=[
            [name, *(_mean(own[column]) if column in own else "" for column in columns)]
            for name, own in errors.items()
        ],
        note=(
            f"Mean ± sample standard deviation over {_range(counts)} seeds; {_range(sizes)} "
            f"blocks, {rows[0].samples:,} samples.{how}"
        ),
    )


def _paper_grid() -> Grid:
    return Grid(
        title="The paper's table 1",
        columns=["attention", *TABLE_1_COLUMNS],
        rows=[[kind, *figures] for kind, figures in TABLE_1.items()],
        note="3 seeds; about 50 blocks, 4 layers of width 256, 100,000 steps.",
    )


def _mean(errors: Sequence[float]) -> str:
    percent = [100 * error for error in errors]
    mean = f"{statistics.fmean(percent):.1f}"
    return f"{mean} ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else mean


def _column(block_size: int, answer: str) -> str:
    return f"N={block_size} {answer}"


def _range(values: Sequence[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"
