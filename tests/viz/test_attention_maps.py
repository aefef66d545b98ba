import numpy as np
import pytest

from mta_jax.viz import attention_maps
from tests.viz.saving import check_figure, minus_signs

RNG = np.random.default_rng(0)
MAPS = {"layer 0, head 0": RNG.normal(size=(3, 5)), "layer 1, head 2": 4 * RNG.normal(size=(3, 5))}


def figure(**arguments):
    return attention_maps(MAPS, keys=list("abc.d"), queries=list("xyz"), **arguments)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def labels(ticks):
    return [tick.get_text() for tick in ticks]


def test_panels_have_titles_and_tokens():
    drawn = figure()
    check_figure(drawn)
    assert [panel.get_title() for panel in panels(drawn)] == list(MAPS)
    for panel in panels(drawn):
        assert labels(panel.get_yticklabels()) == ["x", "y", "z"]
        assert panel.get_ylabel() == "query"
    last = panels(drawn)[-1]
    assert labels(last.get_xticklabels()) == ["a", "b", "c", ".", "d"]
    np.testing.assert_array_equal(last.get_xticks(), range(5))
    assert last.get_xlabel() == "key"


def test_panels_show_their_maps_on_one_scale_around_zero():
    limit = max(np.abs(weights).max() for weights in MAPS.values())
    for panel, weights in zip(panels(figure()), MAPS.values(), strict=True):
        (image,) = panel.images
        np.testing.assert_array_equal(image.get_array(), weights)
        assert image.get_clim() == pytest.approx((-limit, limit))


def test_a_scale_without_negative_weights_starts_at_zero():
    drawn = attention_maps({"m": np.abs(MAPS["layer 0, head 0"])}, keys="abcde", queries="xyz")
    (image,) = panels(drawn)[0].images
    assert image.get_clim()[0] == 0


def test_negative_weights_have_a_sign():
    weights = np.array([[0.5, -0.2, 0.0], [-0.001, 1.0, -1.0]])
    drawn = attention_maps({"m": weights}, keys="abc", queries="xy")
    check_figure(drawn)
    assert minus_signs(panels(drawn)[0]) == {(1, 0), (2, 1)}


def test_colour_bar_says_what_it_shows():
    (bar,) = [axes for axes in figure().axes if axes.get_label() == "<colorbar>"]
    assert bar.get_ylabel() == "attention weight"


def test_marked_keys_are_framed_and_named():
    drawn = figure(marked=(1, 3), marked_label="answer")
    check_figure(drawn)
    for panel in panels(drawn):
        (frame,) = panel.patches
        assert frame.get_bbox().bounds == (0.5, -0.5, 2.0, 3.0)
    assert panels(drawn)[-1].get_xlabel() == "key (answer)"


def test_nothing_is_framed_unless_asked():
    assert all(not panel.patches for panel in panels(figure()))


def test_maps_stand_side_by_side_with_labels_below_the_lowest():
    maps = {f"head {n}": np.eye(3) for n in range(3)}
    tokens = ["<bos>", "$", "x"]
    drawn = attention_maps(maps, keys=tokens, queries=tokens, columns=2)
    check_figure(drawn)
    first, second, third = panels(drawn)
    assert first.get_position().y0 == pytest.approx(second.get_position().y0)
    assert third.get_position().y0 < first.get_position().y0
    assert labels(first.get_xticklabels()) == [""] * 3
    for panel in (second, third):
        assert labels(panel.get_xticklabels()) == tokens
        assert [label.get_rotation() for label in panel.get_xticklabels()] == [90, 0, 0]
