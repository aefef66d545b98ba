import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mta_jax.viz import style


def lightness(colours):
    """CIE L* of sRGB colours, [..., 3]."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(
        luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3
    )


def lightness_of(name):
    return lightness(matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3])


@pytest.mark.parametrize(("name", "sign"), [("LIGHT_IS_MOST", 1), ("DARK_IS_MOST", -1)])
def test_a_map_of_one_sign_changes_in_lightness_evenly(name, sign):
    steps = sign * np.diff(lightness_of(getattr(style, name)))
    assert steps.min() > 0
    assert steps.max() < 3 * np.median(steps)


def test_the_map_of_both_signs_is_lightest_at_zero():
    found = lightness_of(style.SIGNED)
    assert found.argmax() in (127, 128)
    assert (np.diff(found[:128]) > 0).all()
    assert (np.diff(found[128:]) < 0).all()


def test_lines_and_bars_differ_without_colour():
    for feature in ("marker", "linestyle", "color"):
        assert len({one[feature] for one in style.STYLES}) == len(style.STYLES)
    assert len(set(style.HATCHES)) == len(style.STYLES)
    # None is lost on white paper.
    assert lightness(np.array([to_rgb(one["color"]) for one in style.STYLES])).max() < 75


def test_the_ninth_line_has_hollow_markers():
    assert "markerfacecolor" not in style.line_style(0)
    assert style.line_style(8) == style.line_style(0) | {"markerfacecolor": "white"}


@pytest.mark.parametrize("name", ["LIGHT_IS_MOST", "DARK_IS_MOST", "SIGNED"])
def test_text_is_read_on_every_colour(name):
    image = Figure().subplots().imshow([[0.0, 1.0]], cmap=getattr(style, name))
    for value in np.linspace(0, 1, 50):
        text = lightness(np.array(to_rgb(style.text_colour(image, value))))
        under = lightness(image.to_rgba(np.array([value]))[0, :3])
        assert abs(text - under) > 45
