"""Needles and BABILong, of which the paper has plots only."""

from mta_jax.command_line.plain import from_plain
from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.needle.config import NeedleConfig
from mta_jax.evaluate.needle.evaluation import Row, tables
from mta_jax.evaluate.report.evaluations import Evaluation

NEEDLES_IN_THE_PAPER = (
    "The paper shows needles in plots without numbers (figures 3 and 8), so none stand beside "
    "these. It finds MTA best for every number of needles and both lengths, most of all for "
    "needles deep in the context."
)
BABILONG_IN_THE_PAPER = (
    "The paper shows BABILong in plots without numbers (figures 5 and 7), so none stand beside "
    "these. It finds MTA above the others, most of all in 4,096 tokens."
)

_SCORES = {"generated": "written answers", "likeliest": "likeliest labels"}


def needle_tables(evaluation: Evaluation) -> list[Grid]:
    """The evaluation's own tables.

    Raises:
      ConfigError: where settings or rows are not those of the task.
    """
    rows = evaluation.checked(
        ("model", "kind"),
        (
            *("length", "num_needles", "num_asked", "depth", "samples"),
            *("generated", "likelihood", "chance"),
        ),
    )
    try:
        config = from_plain(NeedleConfig, dict(evaluation.config), evaluation.where)
        return tables(config, [Row(**row) for row in rows])
    except (UserError, TypeError, ValueError, IndexError):
        raise ConfigError(
            f"{evaluation.where}: settings and rows are not those of one evaluation of this version"
        ) from None


def babilong_tables(evaluation: Evaluation) -> list[Grid]:
    """Shares of right answers by task, a table for each length.

    Raises:
      ConfigError: where the rows are not those of the task.
    """
    rows = evaluation.checked(
        ("model", "kind", "source", "task"),
        ("length", "samples", "generated", "likeliest", "chance"),
    )
    grids = []
    for length in sorted({row["length"] for row in rows}):
        own = [row for row in rows if row["length"] == length]
        tasks = list(dict.fromkeys(row["task"] for row in own))
        lines = []
        for model in dict.fromkeys(row["model"] for row in own):
            of_model = {row["task"]: row for row in own if row["model"] == model}
            kind = next(iter(of_model.values()))["kind"]
            for score, words in _SCORES.items():
                cells = [
                    f"{100 * of_model[task][score]:.1f}" if task in of_model else ""
                    for task in tasks
                ]
                lines.append([model, kind, words, *cells])
        chance = {row["task"]: f"{100 * row['chance']:.1f}" for row in own}
        lines.append(["chance", "", _SCORES["likeliest"], *(chance[task] for task in tasks)])
        where = f"facts in {length:,} tokens" if length else "facts alone"
        grids.append(
            Grid(
                title=f"{own[0]['source']}: {where}, right answers, %",
                columns=["model", "attention", "score", *tasks],
                rows=lines,
                num_words=3,
            )
        )
    return grids
