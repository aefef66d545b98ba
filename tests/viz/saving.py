"""What every figure must be fit for."""

import io

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def check_figure(figure: Figure) -> None:
    """Draws a figure as PNG, which also lays it out, and looks for traces in pyplot."""
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert plt.get_fignums() == []
