"""What every figure must be fit for."""

import io

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def check_figure(figure: Figure) -> None:
    """Draws a figure as PNG, which also lays it out, and looks for traces in pyplot."""
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def minus_signs(panel: Axes) -> set[tuple[float, float]]:
    """Where a heat map has minus signs, which must not move its borders."""
    left, right, bottom, top = panel.images[0].get_extent()
    assert (panel.get_xlim(), panel.get_ylim()) == ((left, right), (bottom, top))
    return {tuple(place) for marks in panel.collections for place in marks.get_offsets().tolist()}
