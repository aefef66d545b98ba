import numpy as np
import pytest

from mta_jax.viz import key_query_kernels
from tests.viz.saving import check_figure, minus_signs

KERNELS = {
    "layer 2, logits": np.arange(-9, 9).reshape(2, 3, 3) / 10,
    "layer 6, logits": np.full((1, 2, 5), 0.25),
}


def panels(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_rows_are_layers_and_columns_heads():
    figure = key_query_kernels(KERNELS)
    check_figure(figure)
    first, second, third, empty = panels(figure)
    assert [panel.get_title() for panel in (first, second, third)] == [
        "layer 2, logits, head 0",
        "layer 2, logits, head 1",
        "layer 6, logits, head 0",
    ]
    assert not empty.axison
    assert not empty.images
    assert first.get_ylabel() == third.get_ylabel() == "query offset"
    assert third.get_xlabel() == "key offset"
    assert "Key-query kernels" in figure.get_suptitle()


def test_panels_show_their_kernels_on_one_scale_around_zero():
    first, second, third, _ = panels(key_query_kernels(KERNELS))
    expected = [*KERNELS["layer 2, logits"], *KERNELS["layer 6, logits"]]
    for panel, kernel in zip((first, second, third), expected, strict=True):
        (image,) = panel.images
        np.testing.assert_array_equal(image.get_array(), kernel)
        assert image.get_clim() == pytest.approx((-0.9, 0.9))


@pytest.mark.parametrize(
    ("key_padding", "offsets"),
    [("both", [-2, -1, 0, 1, 2]), ("left", [-4, -3, -2, -1, 0]), ("right", [0, 1, 2, 3, 4])],
)
def test_offsets_follow_the_padding(key_padding, offsets):
    # The kernel's own place, where query and key offset are 0, is marked by a 9.
    kernel = np.zeros((1, 3, 5))
    kernel[0, -1, offsets.index(0)] = 9
    figure = key_query_kernels({"layer": kernel}, key_padding=key_padding)
    check_figure(figure)
    (panel,) = panels(figure)
    np.testing.assert_array_equal(panel.get_xticks(), offsets)
    np.testing.assert_array_equal(panel.get_yticks(), [-2, -1, 0])
    left, right, bottom, top = panel.images[0].get_extent()
    assert (left, right) == (offsets[0] - 0.5, offsets[-1] + 0.5)
    # The last row of the kernel, the query itself, is drawn lowest.
    assert (bottom, top) == (0.5, -2.5)
    (own,) = [text for text in panel.texts if text.get_text() == "9.0"]
    assert own.get_position() == (0, 0)


def test_small_kernels_show_their_numbers_and_large_ones_do_not():
    small, large = np.full((1, 2, 3), -0.04), np.zeros((1, 6, 11))
    (panel,) = panels(key_query_kernels({"layer": small}))
    assert [text.get_text() for text in panel.texts] == ["0.0"] * 6
    (panel,) = panels(key_query_kernels({"layer": large + 1.0}))
    assert not panel.texts


@pytest.mark.parametrize("key_padding", ["both", "left"])
def test_large_kernels_have_a_sign_where_they_are_negative(key_padding):
    kernel = np.zeros((1, 6, 11))
    kernel[0, 5, 5], kernel[0, 1, 2], kernel[0, 0, 0] = 1.0, -0.5, -0.01
    figure = key_query_kernels({"layer": kernel}, key_padding=key_padding)
    check_figure(figure)
    (panel,) = panels(figure)
    # The place of the weight in key and query offsets.
    assert minus_signs(panel) == {(2 - (5 if key_padding == "both" else 10), 1 - 5)}


def test_colour_bar_says_what_it_shows():
    (bar,) = [a for a in key_query_kernels(KERNELS).axes if a.get_label() == "<colorbar>"]
    assert bar.get_ylabel() == "weight"


def test_long_axes_have_every_other_offset():
    (panel,) = panels(key_query_kernels({"layer": np.ones((1, 2, 15))}))
    np.testing.assert_array_equal(panel.get_xticks(), range(-7, 8, 2))


def test_a_part_of_the_heads_keeps_its_numbers_and_scale():
    figure = key_query_kernels({"layer": np.ones((2, 6, 11))}, first_head=4, limit=2.0)
    check_figure(figure)
    assert [panel.get_title() for panel in panels(figure)] == ["layer, head 4", "layer, head 5"]
    assert {panel.images[0].get_clim() for panel in panels(figure)} == {(-2.0, 2.0)}
