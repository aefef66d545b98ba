"""Learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

STYLES: list[dict[str, Any]] = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": ":", "marker": "^"},
    {"color": "#000000", "linestyle": "-.", "marker": "D"},
    {"color": "#56B4E9", "linestyle": (0, (8, 2)), "marker": "v"},
    {"color": "#E69F00", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "P"},
    {"color": "#CC79A7", "linestyle": (0, (1, 3)), "marker": "X"},
    {"color": "#7F7F7F", "linestyle": (0, (6, 2, 2, 2)), "marker": "*"},
]
"""Of the lines of a picture; there are no more that can be told apart."""

_COLUMNS = 3

# More lines than these are named below all panels, and marked where they are long too.
_FEW = 4


def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    figures: Mapping[str, tuple[str, str]],
) -> Figure:
    """One panel per figure, one line per run, over training steps.

    Args:
      runs: rows of metrics.jsonl by name of the run.
      figures: title and axis label by the figure's name in the rows. A name that
        ends in "error" is a share, drawn in percent from 0 to 100.
    """
    num_columns = min(len(figures), _COLUMNS)
    num_rows = -(-len(figures) // num_columns)
    figure = Figure(figsize=(5.2 * num_columns, 3.6 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for spare in axes[len(figures) :]:
        spare.remove()
    axes = axes[: len(figures)]
    for panel, (name, (title, label)) in zip(axes, figures.items(), strict=True):
        percent = 100 if name.endswith("error") else 1
        for index, (run, rows) in enumerate(runs.items()):
            points = [(row["step"], row[name] * percent) for row in rows if name in row]
            if not points:
                continue
            marks: dict[str, Any] = {"markersize": 4, "markevery": max(1, len(points) // 12)}
            if len(points) <= 30:
                marks["markevery"] = 1
            elif len(runs) <= _FEW:
                marks = {"marker": ""}
            panel.plot(*zip(*points, strict=True), label=run, **STYLES[index % len(STYLES)] | marks)
        panel.set_title(title)
        panel.set_xlabel("training step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_ylabel(label)
        if percent == 100:
            panel.set_ylim(-3, 103)
        panel.grid(alpha=0.3)
        if panel.lines and len(runs) <= _FEW:
            _as_they_are(panel.legend())
    if len(runs) > _FEW:
        lines = {line.get_label(): line for panel in axes for line in panel.lines}
        legend = figure.legend(
            lines.values(), lines, loc="outside lower center", ncols=min(num_columns, len(lines))
        )
        _as_they_are(legend)
    return figure


def _as_they_are(legend: Legend) -> None:
    """A dollar sign in a name is no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
