"""Attention maps with their tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def attention_maps(
    maps: Mapping[str, np.ndarray],
    *,
    keys: Sequence[str],
    queries: Sequence[str],
    marked: tuple[int, int] | None = None,
    marked_label: str = "",
) -> Figure:
    """Heat maps of attention weights, one below the other, on one scale.

    Args:
      maps: arrays [queries, keys] by title. Weights may be negative.
      keys: label of each key.
      queries: label of each query.
      marked: first and one past the last key to frame.
      marked_label: what the frame means.
    """
    size = (max(6.0, 0.16 * len(keys) + 1.6), (0.2 * len(queries) + 0.75) * len(maps) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(maps), 1, squeeze=False, sharex=True)[:, 0]
    limit = max(float(np.abs(weights).max()) for weights in maps.values())
    signed = any(float(weights.min()) < 0 for weights in maps.values())
    scale = {"cmap": "PuOr", "vmin": -limit} if signed else {"cmap": "Purples", "vmin": 0.0}
    for panel, (title, weights) in zip(axes, maps.items(), strict=True):
        panel.imshow(weights, vmax=limit, aspect="auto", **scale)
        panel.set_title(title, fontsize=9)
        panel.set_yticks(range(len(queries)), queries, fontsize=8, family="monospace")
        panel.set_ylabel("query")
        if marked:
            first, end = marked
            panel.add_patch(
                Rectangle(
                    (first - 0.5, -0.5),
                    end - first,
                    len(queries),
                    fill=False,
                    edgecolor="black",
                    linewidth=1.6,
                )
            )
    axes[-1].set_xticks(range(len(keys)), keys, fontsize=8, family="monospace")
    axes[-1].set_xlabel(f"key ({marked_label})" if marked and marked_label else "key")
    figure.colorbar(axes[0].images[0], ax=list(axes), label="attention weight", shrink=0.8)
    return figure
