"""Colours, lines and marks that all pictures share.

What differs in colour differs in lightness, dash, marker or hatch too, so that pictures
read in black and white and by colour-blind readers. Colours of lines are those of Okabe
and Ito (https://jfly.uni-koeln.de/color/) and a grey.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage
from matplotlib.text import Text

STYLES: list[dict[str, Any]] = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": ":", "marker": "^"},
    {"color": "#000000", "linestyle": "-.", "marker": "D"},
    {"color": "#56B4E9", "linestyle": (0, (8, 2)), "marker": "v"},
    {"color": "#E69F00", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "P"},
    {"color": "#CC79A7", "linestyle": (0, (1, 3)), "marker": "X"},
    {"color": "#7F7F7F", "linestyle": (0, (6, 2, 2, 2)), "marker": "*"},
]
"""Of the lines of a picture; there are no more that can be told apart by colour."""

HATCHES = ["", "//", "..", "xx", "\\\\", "--", "oo", "++"]
"""Of bars, in the order of `STYLES`."""

LIGHT_IS_MOST = "cividis"
"""Colour map of shares, perceptually uniform."""

DARK_IS_MOST = "magma_r"
"""Colour map of weights of which most are near zero, perceptually uniform."""

SIGNED = "PuOr"
"""Colour map of what may be negative, light at zero, which must be its middle."""

SIGNED_ON_BLACK = LinearSegmentedColormap.from_list(
    "signed_on_black", ["#f1a340", "#000004", "#b2abd2"]
)
"""`SIGNED` for dark pages: dark at zero, as `DARK_IS_MOST` is when it is turned round."""

# Of the largest weight: what is less than that may be of either sign.
_LEAST_SIGN = 0.05

# Relative luminance at which black and white have the same contrast (WCAG 2, 1.4.3).
_AS_FAR_FROM_BOTH = 0.179


def line_style(index: int) -> dict[str, Any]:
    """Style of a line by its number; from the ninth on its markers are hollow."""
    style = STYLES[index % len(STYLES)]
    return style | {"markerfacecolor": "white"} if index // len(STYLES) % 2 else style


def weight_scale(*, signed: bool, limit: float) -> dict[str, Any]:
    """Arguments of `imshow` for weights.

    Args:
      signed: whether they may be negative.
      limit: largest magnitude on the scale.
    """
    if signed:
        return {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    return {"cmap": DARK_IS_MOST, "vmin": 0.0, "vmax": limit}


def text_colour(image: AxesImage, value: float) -> str:
    """Black or white, whichever is better read on the colour of a value."""
    colour = image.to_rgba(np.array([value]))[0, :3]
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "black" if luminance > _AS_FAR_FROM_BOTH else "white"


def mark_negative(panel: Axes, values: np.ndarray, *, first: tuple[int, int] = (0, 0)) -> None:
    """A minus sign in the cells of negative weights, whose colours are as dark as positive ones.

    Args:
      panel: has the weights as its image.
      values: the weights, [rows, columns]; NaN where there are none.
      first: place of the first row and column on the axes.
    """
    image = panel.images[0]
    rows, columns = np.nonzero(values < -_LEAST_SIGN * image.get_clim()[1])
    if len(rows):
        colours = [text_colour(image, value) for value in values[rows, columns]]
        panel.scatter(columns + first[1], rows + first[0], s=14, marker="_", c=colours, linewidth=1)


def write_values(
    panel: Axes,
    values: np.ndarray,
    *,
    digits: int,
    fontsize: int,
    first: tuple[int, int] = (0, 0),
) -> None:
    """Numbers in the cells of a heat map, which is the panel's image.

    Args:
      panel: has the values as its image.
      values: [rows, columns]; NaN where there are none.
      digits: behind the point.
      fontsize: in points.
      first: place of the first row and column on the axes.
    """
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            panel.text(
                column + first[1],
                row + first[0],
                f"{round(float(value), digits) + 0.0:.{digits}f}",  # no -0.0
                ha="center",
                va="center",
                fontsize=fontsize,
                color=text_colour(panel.images[0], value),
            )


def mark_missing(panel: Axes) -> None:
    """Cells without a value are hatched, which no colour of a map is."""
    panel.patch.set(facecolor="white", edgecolor="0.6", hatch="////", linewidth=0)


def as_they_are(texts: Iterable[Text]) -> None:
    """A dollar sign in a name is no formula."""
    for text in texts:
        text.set_parse_math(False)
