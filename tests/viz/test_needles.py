import numpy as np

from mta_jax import viz


def test_a_cell_tells_its_share_and_an_empty_one_nothing():
    shares = {"2 needles": np.array([[1.0, 0.25], [0.5, np.nan]]), "4 needles": np.zeros((2, 2))}
    figure = viz.needle_heat_map(shares, depths=[0.0, 50.0], lengths=[1024, 2048], title="model")
    panels = [axes for axes in figure.axes if axes.images]
    assert [panel.get_title() for panel in panels] == ["2 needles", "4 needles"]
    assert [text.get_text() for text in panels[0].texts] == ["100", "25", "50"]
    assert {panel.images[0].get_clim() for panel in panels} == {(0, 100)}
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["1,024", "2,048"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["0", "50"]
    assert figure.get_suptitle() == "model"
    # An empty cell is no light one.
    assert panels[0].patch.get_hatch()
