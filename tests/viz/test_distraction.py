import numpy as np

from mta_jax.viz import accuracy_by_length
from tests.viz.saving import check_figure

PANELS = {
    "average": {"mta": [(0, 0.9), (1024, 0.5)], "transformer": [(0, 0.7), (4096, 0.2)]},
    "QA1": {"mta": [(0, 1.0), (1024, 0.5)]},
}


def drawn(panels=PANELS, **changes):
    return accuracy_by_length(panels, **{"chance": {"QA1": 1 / 6}, "title": "Title"} | changes)


def test_each_task_is_a_panel_with_its_lengths():
    figure = drawn()
    check_figure(figure)
    assert figure.get_suptitle() == "Title"
    assert [panel.get_title() for panel in figure.axes] == ["average", "QA1"]
    for panel in figure.axes:
        assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1K", "4K"]
        assert panel.get_xlabel() == "tokens"
    assert figure.axes[0].get_ylabel() == "right answers (%)"


def test_each_model_is_a_line_in_percent_at_its_lengths():
    average, first = drawn().axes
    np.testing.assert_allclose(average.lines[0].get_xydata(), [[0, 90], [1, 50]])
    np.testing.assert_allclose(average.lines[1].get_xydata(), [[0, 70], [2, 20]])
    assert [line.get_label() for line in average.lines] == ["mta", "transformer"]
    # Chance where it has one.
    assert first.lines[-1].get_label() == "chance"
    np.testing.assert_allclose(first.lines[-1].get_ydata(), 100 / 6)


def test_lines_differ_without_colour():
    many = {f"model {number}": [(0, 0.1 * number), (1024, 0.5)] for number in range(8)}
    (panel,) = drawn({"average": many}, chance={}).axes
    looks = {
        (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor() == "white")
        for line in panel.lines
    }
    assert len(looks) == 8
