"""Learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mta_jax.viz.panels import grid_shape, panels_of
from mta_jax.viz.style import as_they_are, line_style

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""Of metrics.jsonl of one run."""

_COLUMNS = 3

# More lines than these are named below all panels, and marked where they are long too.
_FEW = 4

# Points of a line that are all marked.
_SHORT = 30

# Inches for each name below the panels, and for each row of them.
_NAME_WIDTH, _NAME_HEIGHT = 2.6, 0.25


def learning_curves(
    runs: Mapping[str, Rows | Sequence[Rows]],
    figures: Mapping[str, tuple[str, str]],
) -> Figure:
    """One panel per figure, one line per run, over training steps.

    Runs that differ in their seeds only may share a line: their mean, in a band of one sample
    standard deviation on each side, at the steps that all of them have.

    Args:
      runs: rows of metrics.jsonl by name of the run, or a list of those of several seeds.
      figures: title and axis label by the figure's name in the rows. A name that
        ends in "error" is a share, drawn in percent from 0 to 100.

    Raises:
      ValueError: where the seeds of a line have no step in common.
    """
    num_rows, num_columns = grid_shape(len(figures), _COLUMNS)
    width, height = 5.2 * num_columns, 3.6 * num_rows
    names_across = min(int(width / _NAME_WIDTH), len(runs)) or 1
    if len(runs) > _FEW:
        height += _NAME_HEIGHT * -(-len(runs) // names_across)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = panels_of(figure, len(figures), num_columns)
    for panel, (name, (title, label)) in zip(axes, figures.items(), strict=True):
        is_share = name.endswith("error")
        for index, (run, rows) in enumerate(runs.items()):
            _draw(panel, run, rows, name, index=index, is_one_of_few=len(runs) <= _FEW)
        panel.set_title(title)
        panel.set_xlabel("training step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_ylabel(label)
        if is_share:
            panel.set_ylim(-3, 103)
        panel.grid(alpha=0.3)
        if panel.lines and len(runs) <= _FEW:
            as_they_are(panel.legend().get_texts())
    if len(runs) > _FEW:
        lines = {line.get_label(): line for panel in axes for line in panel.lines}
        legend = figure.legend(
            lines.values(), lines, loc="outside lower center", ncols=names_across
        )
        as_they_are(legend.get_texts())
    return figure


def _draw(
    panel: Axes,
    run: str,
    rows: Rows | Sequence[Rows],
    name: str,
    *,
    index: int,
    is_one_of_few: bool,
) -> None:
    """One line, if the run has the figure, and the band around it."""
    percent = 100 if name.endswith("error") else 1
    seeds = [
        {row["step"]: row[name] * percent for row in own if name in row} for own in _by_seed(rows)
    ]
    seeds = [points for points in seeds if points]
    if not seeds:
        return
    steps = [step for step in seeds[0] if all(step in points for points in seeds)]
    if not steps:
        raise ValueError(
            f"runs: the {len(seeds)} seeds of {run!r} have no step with {name!r} in common; "
            "average runs that were evaluated at the same steps"
        )
    values = np.array([[points[step] for step in steps] for points in seeds])
    means = values.mean(axis=0)
    style = line_style(index)
    if len(seeds) > 1:
        run = f"{run} (mean ± s.d., {len(seeds)} seeds)"
        deviation = values.std(axis=0, ddof=1)
        panel.fill_between(
            steps,
            means - deviation,
            means + deviation,
            facecolor=(style["color"], 0.2),
            edgecolor=(style["color"], 0.7),
            linestyle=style["linestyle"],
            linewidth=0.7,
        )
    marks: dict[str, Any] = {"markersize": 4, "markevery": 1}
    if len(steps) > _SHORT:
        marks = {"marker": ""} if is_one_of_few else marks | {"markevery": len(steps) // 12}
    panel.plot(steps, means, label=run, **style | marks)


def _by_seed(rows: Rows | Sequence[Rows]) -> list[Rows]:
    """The rows of each seed."""
    if all(isinstance(row, Mapping) for row in rows):
        return [cast(Rows, rows)]
    return list(cast(Sequence[Rows], rows))
