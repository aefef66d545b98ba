"""The paper's table 1."""

from mta_jax.errors import ConfigError
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.paper import TABLE_1, TABLE_1_COLUMNS
from mta_jax.evaluate.report.beside import beside_the_paper, paper_lines
from mta_jax.evaluate.report.evaluations import Evaluation
from mta_jax.evaluate.toy import Row, error_grid

_WORDS = ("model", "kind", "answer")
_NUMBERS = ("block_size", "num_blocks", "seed", "step", "samples", "wrong", "error", "loss")


def toy_tables(evaluation: Evaluation) -> list[Grid]:
    """Means and deviations over seeds, with the paper's.

    Raises:
      ConfigError: where the rows are not those of the task.
    """
    checked = evaluation.checked(_WORDS, _NUMBERS)
    try:
        rows = [Row(**row) for row in checked]
    except TypeError:
        raise ConfigError(f"{evaluation.where}: has rows of another version") from None
    grid = error_grid(rows, dropout=evaluation.config.get("dropout"))
    own = [
        ("here", kind, dict(zip(grid.columns[1:], figures, strict=True)))
        for kind, *figures in grid.rows
    ]
    return [
        beside_the_paper(
            "Wrong answers to the block-search task, %, as in the paper's table 1",
            own,
            paper_lines("paper", TABLE_1, TABLE_1_COLUMNS),
            headings={column: column for column in TABLE_1_COLUMNS},
            note=(
                f"Here: {grid.note} The paper: 3 seeds, about 50 blocks, 4 layers of width 256, "
                "100,000 steps."
            ),
        )
    ]
