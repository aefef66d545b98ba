"""Losses of several runs side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mta_jax.viz.panels import grid_shape, panels_of
from mta_jax.viz.style import as_they_are, line_style

_COLUMNS = 3


def loss_comparison(
    losses: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    label: str,
    title: str = "Held-out text: means and sample standard deviations, hollow points are seeds",
) -> Figure:
    """A panel for each text and a row for each kind, the mean of its seeds and their deviation.

    Panels have scales of their own, which need not begin at zero: differences between losses
    are small.

    Args:
      losses: losses or perplexities of the seeds, by what was trained and by text.
      label: what they are, with their unit.
      title: above all.

    Raises:
      ValueError: where a cell has no loss, or one that is not finite.
    """
    for kind, own in losses.items():
        for text, values in own.items():
            if not len(values) or not np.isfinite(values).all():
                raise ValueError(
                    f"losses: {kind!r} has {list(values)} for {text!r}; must be finite, at least "
                    "one; leave out what was not measured"
                )
    texts = list(dict.fromkeys(text for own in losses.values() for text in own))
    num_rows, num_columns = grid_shape(len(texts), _COLUMNS)
    figure = Figure(
        figsize=(3.7 * num_columns + 1.2, (0.5 * len(losses) + 1.0) * num_rows + 0.4),
        layout="constrained",
    )
    axes = panels_of(figure, len(texts), num_columns, sharey=True)
    for panel, text in zip(axes, texts, strict=True):
        for row, (kind, own) in enumerate(losses.items()):
            if text not in own:
                continue
            seeds = np.asarray(own[text], float)
            style = line_style(row)
            mean = float(seeds.mean())
            deviation = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
            # Seeds stand below their mean, which they would hide.
            if deviation is not None:
                panel.plot(
                    seeds,
                    np.full(len(seeds), row + 0.25),
                    linestyle="",
                    marker=style["marker"],
                    markersize=4,
                    markerfacecolor="none",
                    color=style["color"],
                )
            panel.errorbar(
                mean,
                row,
                xerr=deviation,
                label=kind,
                markersize=7,
                capsize=4,
                **style | {"linestyle": ""},
            )
            panel.text(
                mean,
                row - 0.17,
                f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}",
                ha="center",
                va="bottom",
                fontsize=8,
            )
        panel.set_title(text, parse_math=False)
        panel.set_xlabel(label)
        panel.set_yticks(range(len(losses)), list(losses))
        panel.set_ylim(len(losses) - 0.5, -0.65)
        panel.margins(x=0.2)
        panel.grid(axis="x", alpha=0.3)
        as_they_are(panel.get_yticklabels())
    figure.suptitle(title, fontsize=11)
    return figure
