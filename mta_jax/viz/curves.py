"""Learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLES = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": ":", "marker": "^"},
    {"color": "#000000", "linestyle": "-.", "marker": "D"},
]


_COLUMNS = 3


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
            style = STYLES[index % len(STYLES)]
            panel.plot(
                *zip(*points, strict=True),
                label=run,
                **style | ({"marker": ""} if len(points) > 30 else {"markersize": 4}),
            )
        panel.set_title(title)
        panel.set_xlabel("training step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylabel(label)
        if percent == 100:
            panel.set_ylim(-3, 103)
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend()
    return figure
