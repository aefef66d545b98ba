"""Learned mixing kernels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.typing import KeyPadding
from mta_jax.viz.style import mark_negative, weight_scale, write_values

# Cells of a kernel whose numbers are written into them.
_MOST_NUMBERS = 40


def key_query_kernels(
    kernels: Mapping[str, np.ndarray],
    *,
    key_padding: KeyPadding = "both",
    first_head: int = 0,
    limit: float | None = None,
) -> Figure:
    """Heat maps of key-query kernels, a row per layer and a column per head.

    Small ones have their weights in the cells, large ones a minus sign where a weight is
    negative.

    Args:
      kernels: arrays [N, Cq, Ck] by the title of their layer.
      key_padding: where offset 0 lies on the key axis.
      first_head: number of their first head, where they are some of a layer's.
      limit: weight at the ends of the colour scale; None: the largest.
    """
    heads = max(kernel.shape[0] for kernel in kernels.values())
    sizes = [panel_size(*kernel.shape[1:]) for kernel in kernels.values()]
    width, height = max(width for width, _ in sizes), sum(height for _, height in sizes)
    figure = Figure(figsize=(max(width * heads + 1.2, 4.8), height + 0.8), layout="constrained")
    axes = figure.subplots(len(kernels), heads, squeeze=False)
    if limit is None:
        limit = max(float(np.abs(kernel).max()) for kernel in kernels.values())
    for row, (title, kernel) in zip(axes, kernels.items(), strict=True):
        _, query_size, key_size = kernel.shape
        before, after = key_padding_widths(key_size, key_padding)
        for head, panel in enumerate(row):
            if head >= kernel.shape[0]:
                panel.set_axis_off()
                continue
            panel.imshow(
                kernel[head],
                extent=(-before - 0.5, after + 0.5, 0.5, 0.5 - query_size),
                aspect="auto",
                **weight_scale(signed=True, limit=limit),
            )
            first = (1 - query_size, -before)
            if kernel[head].size <= _MOST_NUMBERS:
                write_values(panel, kernel[head], digits=1, fontsize=6, first=first)
            else:
                mark_negative(panel, kernel[head], first=first)
            panel.set_title(f"{title}, head {first_head + head}", fontsize=9)
            panel.set_yticks(_offsets(1 - query_size, 0))
            panel.set_xticks(_offsets(-before, after))
            panel.tick_params(labelsize=7)
    for panel in axes[-1]:
        panel.set_xlabel("key offset", fontsize=8)
    for panel in axes[:, 0]:
        panel.set_ylabel("query offset", fontsize=8)
    figure.suptitle("Key-query kernels: weight of each neighbouring logit", fontsize=11)
    figure.colorbar(axes[0, 0].images[0], ax=list(axes.flat), label="weight", shrink=0.8)
    return figure


def panel_size(query_size: int, key_size: int) -> tuple[float, float]:
    """Width and height in inches of the panel of one kernel, which may have to hold numbers."""
    cell_width, cell_height = (0.42, 0.3) if query_size * key_size <= _MOST_NUMBERS else (0.2, 0.2)
    return max(0.9 + cell_width * key_size, 2.3), 0.9 + cell_height * query_size


def _offsets(first: int, last: int) -> Sequence[int]:
    step = 1 if last - first < 12 else 2
    return range(first, last + 1, step)
