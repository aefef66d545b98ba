"""Needles and BABILong, of which the paper has plots only."""

from mta_jax.command_line.plain import from_plain
from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.babilong.report import tables_of
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


def needle_tables(evaluation: Evaluation) -> list[Grid]:
    """The evaluation's own tables.

    Raises:
      ConfigError: where settings or rows are not those of the task.
    """
    rows = evaluation.checked(
        ("model", "kind"),
        (
            *("length", "num_needles", "num_asked", "depth", "samples"),
            *("generated", "likeliest", "chance"),
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
    """The evaluation's own tables.

    Raises:
      ConfigError: where the rows are not those of the task.
    """
    rows = evaluation.checked(
        ("model", "kind", "source", "task"),
        ("length", "samples", "generated", "likeliest", "chance"),
    )
    try:
        return tables_of(rows)
    except KeyError:
        raise ConfigError(f"{evaluation.where}: lacks tasks of a model") from None
