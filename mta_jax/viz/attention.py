"""Attention maps with their tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mta_jax.viz.panels import panels_of
from mta_jax.viz.style import mark_negative, weight_scale


def attention_maps(
    maps: Mapping[str, np.ndarray],
    *,
    keys: Sequence[str],
    queries: Sequence[str],
    marked: tuple[int, int] | None = None,
    marked_label: str = "",
    columns: int = 1,
) -> Figure:
    """Heat maps of attention weights on one scale.

    Args:
      maps: arrays [queries, keys] by title. Negative weights have a minus sign in their cells.
      keys: label of each key.
      queries: label of each query.
      marked: first and one past the last key to frame.
      marked_label: what the frame means.
      columns: maps side by side.
    """
    num_rows = -(-len(maps) // columns)
    long_labels = any(len(key) > 2 for key in keys)
    width = max(5.2 / columns, 0.16 * len(keys) + 0.8)
    height = 0.2 * len(queries) + 0.75
    figure = Figure(
        figsize=(width * columns + 0.8, height * num_rows + 0.9 + 0.5 * long_labels),
        layout="constrained",
    )
    axes = panels_of(figure, len(maps), columns)
    limit = max(float(np.abs(weights).max()) for weights in maps.values())
    signed = any(float(weights.min()) < 0 for weights in maps.values())
    scale = weight_scale(signed=signed, limit=limit)
    # A dollar sign is no formula here.
    labels = {"fontsize": 8, "family": "monospace", "parse_math": False}
    for index, (panel, (title, weights)) in enumerate(zip(axes, maps.items(), strict=True)):
        panel.imshow(weights, aspect="auto", **scale)
        mark_negative(panel, weights)
        panel.set_title(title, fontsize=9, parse_math=False)
        panel.set_yticks(range(len(queries)), queries, **labels)
        panel.set_ylabel("query")
        is_lowest = index + columns >= len(maps)
        panel.set_xticks(range(len(keys)), keys if is_lowest else [""] * len(keys), **labels)
        if is_lowest:
            panel.set_xlabel(f"key ({marked_label})" if marked and marked_label else "key")
            for label in panel.get_xticklabels():
                label.set_rotation(90 if len(label.get_text()) > 2 else 0)
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
    figure.colorbar(
        axes[0].images[0],
        ax=list(axes),
        label="attention weight",
        shrink=0.8,
        fraction=0.15 / columns,
        aspect=20 * (num_rows if columns > 1 else 1),
    )
    return figure
