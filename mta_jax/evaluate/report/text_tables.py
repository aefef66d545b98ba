"""The paper's tables 2, 3 and 4: perplexity by domain, benchmarks, LAMBADA."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mta_jax.evaluate.grid import Grid, spelled
from mta_jax.evaluate.paper import (
    TABLE_2,
    TABLE_2_COLUMNS,
    TABLE_2_LONG,
    TABLE_3,
    TABLE_3_COLUMNS,
    TABLE_4,
    TABLE_4_COLUMNS,
)
from mta_jax.evaluate.report.beside import Line, beside_the_paper, paper_lines
from mta_jax.evaluate.report.evaluations import Evaluation

_PAPER = "paper, 880M"
_MEAN = "mean"


def perplexity_tables(evaluation: Evaluation) -> list[Grid]:
    """Perplexity by domain with the paper's, and bits per byte.

    Raises:
      ConfigError: where the rows are not those of the task.
    """
    rows = evaluation.checked(
        ("name", "kind", "domain"), ("step", "tokens", "perplexity", "bits_per_byte")
    )
    paper = [
        *paper_lines(_PAPER, TABLE_2, list(TABLE_2_COLUMNS)),
        *paper_lines(f"{_PAPER}, then 4,096 tokens", TABLE_2_LONG, list(TABLE_2_COLUMNS)),
    ]
    own = _lines(rows, "name", "domain", lambda row: spelled(row["perplexity"], 2))
    protocol = evaluation.config.get("protocol", "unknown")
    words = f"Here: the {protocol} protocol."
    theirs = "The paper: SlimPajama, 128,256 tokens of vocabulary, 105 billion tokens, 2 seeds."
    domains = {row["domain"] for row in rows}
    title = "Perplexity of held-out text by domain"
    if domains & set(TABLE_2_COLUMNS) - {_MEAN}:
        note = f"{words} {theirs} The average is the mean of the domains that stand in its line."
        tables = [
            beside_the_paper(
                f"{title}, as in the paper's table 2",
                own,
                paper,
                headings=TABLE_2_COLUMNS,
                note=note,
            )
        ]
    else:
        tables = [
            Grid(
                title=title,
                columns=["model", "attention", *_columns(own)],
                rows=_cells(own),
                num_words=2,
                note=f"{words} Of other texts than the paper's, whose perplexities follow.",
            ),
            beside_the_paper(
                "The paper's table 2", [], paper, headings=TABLE_2_COLUMNS, note=theirs
            ),
        ]
    bits = _lines(rows, "name", "domain", lambda row: f"{row['bits_per_byte']:.3f}")
    return [
        *tables,
        Grid(
            title="Bits per byte of the same text",
            columns=["model", "attention", *_columns(bits)],
            rows=_cells(bits),
            num_words=2,
            note="Comparable between tokenizers, which perplexity is not.",
        ),
    ]


def lm_eval_tables(evaluation: Evaluation) -> list[Grid]:
    """Accuracy in the paper's benchmarks with its own, and what else there is.

    Raises:
      ConfigError: where the rows are not those of the task.
    """
    rows = evaluation.checked(
        ("model", "kind", "task", "metric", "filter"), ("step", "value"), may_lack=("filter",)
    )
    benchmarks = [name for name in TABLE_3_COLUMNS if name != _MEAN]
    accuracies = [row for row in rows if row["metric"] == "acc" and row["task"] in benchmarks]
    # Parts of MMLU are in its mean.
    others = [row for row in rows if row not in accuracies and not row["task"].startswith("mmlu_")]
    tables = []
    if accuracies:
        own = _lines(accuracies, "model", "task", lambda row: f"{100 * row['value']:.1f}")
        with_means: list[Line] = []
        for name, kind, figures in own:
            is_whole = set(figures) == set(benchmarks)
            mean = statistics.fmean(
                100 * row["value"] for row in accuracies if _name(row, "model", rows) == name
            )
            extra = {_MEAN: f"{mean:.1f}"} if is_whole else {}
            with_means.append((name, kind, {**figures, **extra}))
        tables.append(
            beside_the_paper(
                "Accuracy in benchmarks, %, as in the paper's table 3",
                with_means,
                paper_lines(_PAPER, TABLE_3, list(TABLE_3_COLUMNS)),
                headings=TABLE_3_COLUMNS,
                note="The paper does not say which versions of the tasks it took. Means are of all "
                "nine.",
            )
        )
    if others:
        tables.append(
            Grid(
                title="Other figures of lm-evaluation-harness",
                columns=["model", "attention", "task", "metric", "value"],
                rows=[
                    [
                        row["model"],
                        row["kind"],
                        row["task"],
                        row["metric"],
                        spelled(row["value"], 4),
                    ]
                    for row in others
                ],
                num_words=4,
            )
        )
    return tables


def lambada_tables(evaluation: Evaluation) -> list[Grid]:
    """Perplexity of the last words with the paper's, and accuracy.

    Raises:
      ConfigError: where the rows are not those of the task.
    """
    rows = evaluation.checked(
        ("model", "kind", "variant"), ("step", "passages", "perplexity", "accuracy")
    )
    own = _lines(rows, "model", "variant", lambda row: spelled(row["perplexity"], 2))
    right = _lines(rows, "model", "variant", lambda row: f"{100 * row['accuracy']:.1f} %")
    return [
        beside_the_paper(
            "LAMBADA, perplexity of the last word, as in the paper's table 4",
            own,
            paper_lines(_PAPER, TABLE_4, TABLE_4_COLUMNS),
            headings={column: column for column in TABLE_4_COLUMNS},
            note=f"Here: {rows[0]['passages']:,} passages.",
        ),
        Grid(
            title="LAMBADA, last words that greedy decoding writes",
            columns=["model", "attention", *_columns(right)],
            rows=_cells(right),
            num_words=2,
            note="The paper has no such figures.",
        ),
    ]


def _lines(rows: Sequence[Mapping[str, Any]], model: str, column: str, spell: Any) -> list[Line]:
    """A line for each model, with a cell for each column."""
    lines: dict[str, tuple[str, dict[str, str]]] = {}
    for row in rows:
        _, cells = lines.setdefault(_name(row, model, rows), (row["kind"], {}))
        cells[row[column]] = spell(row)
    return [(name, kind, cells) for name, (kind, cells) in lines.items()]


def _name(row: Mapping[str, Any], model: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A model's name, with its steps where models have different ones."""
    several = len({one["step"] for one in rows}) > 1
    return f"{row[model]}, {row['step']:,} steps" if several else str(row[model])


def _columns(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(column for _, _, cells in lines for column in cells))


def _cells(lines: Sequence[Line]) -> list[list[str]]:
    columns = _columns(lines)
    return [
        [name, kind, *(cells.get(column, "") for column in columns)] for name, kind, cells in lines
    ]
