"""Learned mixtures of heads."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mta_jax.viz.panels import grid_shape, panels_of
from mta_jax.viz.style import mark_missing, mark_negative, weight_scale, write_values

_COLUMNS = 4

# Heads of a model whose weights are written into the cells.
_MOST_NUMBERS = 8


def head_mixing_kernels(kernels: Mapping[str, np.ndarray], *, limit: float | None = None) -> Figure:
    """Heat maps of head-mixing kernels, output heads down and input heads across.

    Small ones have their weights in the cells, large ones a minus sign where a weight is
    negative. Heads of different groups, which are never mixed, have hatched cells.

    Args:
      kernels: arrays [M, Ch, Ch] by their title: groups, input head, output head.
      limit: weight at the ends of the colour scale; None: the largest.
    """
    matrices = {title: mixing_matrix(kernel) for title, kernel in kernels.items()}
    if limit is None:
        limit = max(float(np.abs(kernel).max()) for kernel in kernels.values())
    num_rows, columns = grid_shape(len(matrices), _COLUMNS)
    heads = max(len(matrix) for matrix in matrices.values())
    side = max(1.5, (0.34 if heads <= _MOST_NUMBERS else 0.14) * heads)
    figure = Figure(
        figsize=((side + 0.8) * columns + 0.9, (side + 0.8) * num_rows + 0.4),
        layout="constrained",
    )
    axes = panels_of(figure, len(matrices), columns)
    for panel, (title, matrix) in zip(axes, matrices.items(), strict=True):
        panel.imshow(matrix, **weight_scale(signed=True, limit=limit))
        mark_missing(panel)
        panel.set_title(title, fontsize=8)
        every = 1 if len(matrix) <= _MOST_NUMBERS else 5
        panel.set_xticks(range(0, len(matrix), every))
        panel.set_yticks(range(0, len(matrix), every))
        panel.tick_params(labelsize=7)
        panel.set_xlabel("input head", fontsize=8)
        panel.set_ylabel("output head", fontsize=8)
        if len(matrix) <= _MOST_NUMBERS:
            write_values(panel, matrix, digits=2, fontsize=6)
        else:
            mark_negative(panel, matrix)
    figure.suptitle("Head mixing: weight of each input head in each output head", fontsize=10)
    figure.colorbar(axes[0].images[0], ax=list(axes), label="weight", shrink=0.8)
    return figure


def mixing_matrix(kernel: np.ndarray) -> np.ndarray:
    """A kernel as one matrix [output heads, input heads], NaN between groups.

    Args:
      kernel: [M, Ch, Ch]: groups, input head, output head.
    """
    groups, size, _ = kernel.shape
    matrix = np.full((groups * size, groups * size), np.nan)
    for group, weights in enumerate(kernel):
        own = slice(group * size, (group + 1) * size)
        matrix[own, own] = weights.T
    return matrix
