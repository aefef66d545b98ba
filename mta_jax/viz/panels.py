"""Panels of one picture, row by row."""

import numpy as np
from matplotlib.figure import Figure


def grid_shape(count: int, most_columns: int) -> tuple[int, int]:
    """Rows and columns for so many panels."""
    columns = min(count, most_columns)
    return -(-count // columns), columns


def panels_of(figure: Figure, count: int, num_columns: int, *, sharey: bool = False) -> np.ndarray:
    """So many axes of a figure; the places of the last row that are not needed stay empty."""
    num_rows, _ = grid_shape(count, num_columns)
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=sharey).ravel()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]
