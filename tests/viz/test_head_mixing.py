import numpy as np
import pytest

from mta_jax.viz import head_mixing_kernels
from tests.viz.saving import check_figure, minus_signs

# Two groups of two heads; kernel[group, input, output].
KERNEL = np.array([[[1.0, 0.25], [-0.5, 0.75]], [[0.1, 0.2], [0.3, -2.0]]])


def panels(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_output_heads_go_down_and_input_heads_across():
    figure = head_mixing_kernels({"layer 3": KERNEL})
    check_figure(figure)
    (panel,) = panels(figure)
    assert panel.get_title() == "layer 3"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("input head", "output head")
    expected = np.full((4, 4), np.nan)
    # Head 1 of the output takes a quarter of head 0.
    expected[:2, :2] = [[1.0, -0.5], [0.25, 0.75]]
    expected[2:, 2:] = [[0.1, 0.3], [0.2, -2.0]]
    (image,) = panel.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), expected)
    assert image.get_clim() == (-2.0, 2.0)


def test_numbers_stand_in_the_cells_of_few_heads():
    (panel,) = panels(head_mixing_kernels({"layer": KERNEL}))
    shown = {text.get_position(): text.get_text() for text in panel.texts}
    assert len(shown) == 8
    assert shown[0, 1] == "0.25"
    assert shown[3, 3] == "-2.00"


def test_many_heads_have_a_sign_where_they_are_negative():
    kernel = np.zeros((1, 16, 16))
    kernel[0, 3, 5], kernel[0, 4, 5], kernel[0, 6, 5] = -1.0, 1.0, -0.01
    figure = head_mixing_kernels({"layer": kernel})
    check_figure(figure)
    (panel,) = panels(figure)
    assert minus_signs(panel) == {(3, 5)}
    assert not panel.texts


def test_heads_of_other_groups_are_hatched():
    (panel,) = panels(head_mixing_kernels({"layer": KERNEL}))
    assert panel.patch.get_hatch()


@pytest.mark.parametrize("count", [2, 7])
def test_each_kernel_is_a_panel_on_one_scale(count):
    kernels = {f"layer {n}": np.full((1, 2, 2), n / 10) for n in range(1, count + 1)}
    figure = head_mixing_kernels(kernels)
    check_figure(figure)
    assert [panel.get_title() for panel in panels(figure)] == list(kernels)
    assert {panel.images[0].get_clim()[1] for panel in panels(figure)} == {count / 10}
    (panel, *_) = panels(head_mixing_kernels(kernels, limit=3.0))
    assert panel.images[0].get_clim() == (-3.0, 3.0)
