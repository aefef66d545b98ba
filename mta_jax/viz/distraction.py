"""Accuracy against how much text distracts."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mta_jax.viz.panels import grid_shape, panels_of
from mta_jax.viz.style import as_they_are, line_style

_COLUMNS = 3


def accuracy_by_length(
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    *,
    chance: Mapping[str, float],
    title: str,
) -> Figure:
    """One panel per task, one line per model, over lengths at equal distances.

    Args:
      panels: tokens and shares of right answers by model, by the title of their panel.
      chance: share that chance gets right by panel, where it has one.
      title: above all.
    """
    num_rows, num_columns = grid_shape(len(panels), _COLUMNS)
    figure = Figure(figsize=(3.6 * num_columns + 0.6, 2.9 * num_rows + 0.9), layout="constrained")
    axes = panels_of(figure, len(panels), num_columns, sharey=True)
    lengths = sorted(
        {length for lines in panels.values() for line in lines.values() for length, _ in line}
    )
    for panel, (name, lines) in zip(axes, panels.items(), strict=False):
        for index, (model, points) in enumerate(lines.items()):
            panel.plot(
                [lengths.index(length) for length, _ in points],
                [100 * share for _, share in points],
                label=model,
                markersize=5,
                **line_style(index),
            )
        if name in chance:
            panel.axhline(100 * chance[name], color="0.5", linewidth=1, label="chance")
        panel.set_title(name)
        panel.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
        panel.set_xlabel("tokens")
        panel.set_ylim(-3, 103)
        panel.grid(alpha=0.3)
    for panel in axes[::num_columns]:
        panel.set_ylabel("right answers (%)")
    figure.suptitle(title)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    as_they_are(legend.get_texts())
    return figure


def _short(length: int) -> str:
    """4096 as 4K."""
    return f"{length // 1024}K" if length and length % 1024 == 0 else f"{length:,}"
