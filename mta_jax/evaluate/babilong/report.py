"""Shares of right answers, as figures, tables and pictures."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mta_jax.evaluate.babilong.generator import GENERATED
from mta_jax.evaluate.babilong.tasks import TASKS
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.task import Findings
from mta_jax.viz import accuracy_by_length

AVERAGE = "average"
SCORES = {"generated": "generated_right", "likeliest": "likeliest_right"}

_NAMES = {task.name: task for task in TASKS.values()}
_NOTE = (
    "Percent right. generated: BABILong's rule for the first sentence that the model writes; "
    "likeliest: the label with the highest log-probability."
)


def findings_of(samples: Sequence[Mapping[str, Any]], *, note: str = "") -> Findings:
    """Tables, figures and pictures of the lines of samples.

    Args:
      samples: of all models, in their order.
      note: what else to say below the tables.
    """
    rows = figures_of(samples)
    return Findings(
        tables=tables_of(rows, note=note),
        rows=rows,
        samples=samples,
        pictures={
            f"accuracy_{score}": accuracy_by_length(
                _lines(rows, score),
                chance=_chance(rows) if score == "likeliest" else {},
                title=f"{_title(rows)}: {_IN_WORDS[score]}",
            )
            for score in SCORES
        },
    )


def tables_of(rows: Sequence[Mapping[str, Any]], *, note: str = "") -> list[Grid]:
    """A table for each length.

    Args:
      rows: as of `figures_of`.
      note: what else to say below the tables.
    """
    return [
        _grid([row for row in rows if row["length"] == length], note)
        for length in sorted({row["length"] for row in rows})
    ]


def figures_of(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The share of right answers of each model at each length in each task, and their average.

    Each has `model`, `kind`, `source`, `length`, `task` ("QA1" to "QA5", or "average"), `samples`,
    `tokens` (mean of the whole texts), `generated`, `likeliest`, and `chance` of the latter.
    """
    cells: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for sample in samples:
        tasks = cells.setdefault((sample["model"], sample["length"]), {})
        tasks.setdefault(sample["task"], []).append(sample)
    order = {model: place for place, (model, _) in enumerate(cells)}
    rows = []
    for place in sorted(cells, key=lambda cell: (order[cell[0]], cell[1])):
        of_tasks = [_figures(task, own) for task, own in sorted(cells[place].items())]
        rows += [*of_tasks, _average(of_tasks)]
    return rows


def _figures(task: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("model", "kind", "source", "length")
    return {
        **{name: samples[0][name] for name in names},
        "task": task,
        "samples": len(samples),
        "tokens": statistics.fmean(sample["tokens"] for sample in samples),
        **{
            score: statistics.fmean(sample[right] for sample in samples)
            for score, right in SCORES.items()
        },
        "chance": _NAMES[task].chance,
    }


def _average(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the tasks, each counting the same."""
    figures = {
        name: statistics.fmean(row[name] for row in rows) for name in ("tokens", *SCORES, "chance")
    }
    return {
        **rows[0],
        "task": AVERAGE,
        "samples": sum(row["samples"] for row in rows),
        **figures,
    }


def _grid(rows: Sequence[Mapping[str, Any]], note: str) -> Grid:
    """The table of one length: two lines for each model, and one for chance."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["task"]: row for row in rows if row["model"] == model}
        for score in SCORES:
            shares = [_percent(own[task][score]) for task in tasks]
            lines.append([model, own[AVERAGE]["kind"], score, *shares])
    chance = _chance(rows)
    lines.append(["chance", "", "likeliest", *(_percent(chance[task]) for task in tasks)])
    length = rows[0]["length"]
    where = f"in {length:,} tokens" if length else "facts alone (0)"
    asked = min(row["samples"] for row in rows)
    return Grid(
        title=f"{_title(rows)}, {where}, {asked:,} questions per task",
        columns=["model", "kind", "score", *tasks],
        rows=lines,
        num_words=3,
        note=f"{_NOTE} {note}".strip(),
    )


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    source = rows[0]["source"]
    return source if source == GENERATED else f"BABILong, {source}"


def _chance(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {row["task"]: row["chance"] for row in rows}


def _lines(
    rows: Sequence[Mapping[str, Any]], score: str
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Points of each model by panel, the average first."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {AVERAGE: {}}
    for row in rows:
        lines = panels.setdefault(row["task"], {})
        lines.setdefault(row["model"], []).append((row["length"], row[score]))
    return panels


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


_IN_WORDS = {"generated": "written answers", "likeliest": "likeliest labels"}
