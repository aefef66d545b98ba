"""Heat maps of how often needles are found."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mta_jax.viz.style import LIGHT_IS_MOST, mark_missing, write_values


def needle_heat_map(
    shares: Mapping[str, np.ndarray],
    *,
    depths: Sequence[float],
    lengths: Sequence[int],
    title: str = "",
) -> Figure:
    """A panel per number of needles, depth down and length across, all on one scale.

    Args:
      shares: right answers of each cell, from 0 to 1, [depths, lengths], by the title of their
        panel; NaN where nothing was asked.
      depths: in percent of the context.
      lengths: of the contexts in tokens.
      title: above all.
    """
    width = max(2.6, 0.75 * len(lengths) + 1.1)
    size = (width * len(shares) + 1.2, 0.42 * len(depths) + 1.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
    for panel, (name, values) in zip(axes, shares.items(), strict=True):
        # Light is found and dark is not, in black and white too.
        panel.imshow(100 * values, cmap=LIGHT_IS_MOST, vmin=0, vmax=100, aspect="auto")
        mark_missing(panel)
        write_values(panel, 100 * values, digits=0, fontsize=8)
        panel.set_title(name, fontsize=10)
        panel.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], fontsize=8)
        panel.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths], fontsize=8)
        panel.set_xlabel("context, tokens")
    axes[0].set_ylabel("depth of the needle, %")
    figure.colorbar(axes[0].images[0], ax=list(axes), label="right answers, %", shrink=0.9)
    if title:
        figure.suptitle(title)
    return figure
