import numpy as np
import pytest

from mta_jax.viz import learning_curves
from tests.viz.saving import check_figure

RUNS = {
    "mta": [
        {"step": 10, "train_loss": 2.0},
        {"step": 20, "train_loss": 1.0, "heldout_error": 0.25},
    ],
    "transformer": [{"step": 10, "train_loss": 3.0, "heldout_error": 1.0}],
}
FIGURES = {
    "train_loss": ("Training", "loss (nats)"),
    "heldout_error": ("Held out", "error (%)"),
}


def test_each_figure_is_a_panel_with_its_title_and_labels():
    figure = learning_curves(RUNS, FIGURES)
    check_figure(figure)
    shown = [(panel.get_title(), panel.get_ylabel()) for panel in figure.axes]
    assert shown == list(FIGURES.values())
    assert {panel.get_xlabel() for panel in figure.axes} == {"training step"}


def test_each_run_is_a_line_named_in_the_legend():
    for panel in learning_curves(RUNS, FIGURES).axes:
        assert [line.get_label() for line in panel.lines] == ["mta", "transformer"]
        texts = [text.get_text() for text in panel.get_legend().get_texts()]
        assert texts == ["mta", "transformer"]


def test_lines_are_the_rows_that_have_the_figure():
    loss, error = learning_curves(RUNS, FIGURES).axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[10, 2.0], [20, 1.0]])
    np.testing.assert_array_equal(loss.lines[1].get_xydata(), [[10, 3.0]])
    # Errors in percent.
    np.testing.assert_array_equal(error.lines[0].get_xydata(), [[20, 25.0]])
    np.testing.assert_array_equal(error.lines[1].get_xydata(), [[10, 100.0]])


def test_steps_are_marked_at_whole_numbers():
    rows = [{"step": step, "train_loss": 1.0} for step in (1, 2, 3)]
    (panel,) = learning_curves({"mta": rows}, {"train_loss": FIGURES["train_loss"]}).axes
    assert all(tick == int(tick) for tick in panel.get_xticks())


def test_errors_are_drawn_from_0_to_100_percent():
    _, error = learning_curves(RUNS, FIGURES).axes
    low, high = error.get_ylim()
    assert low < 0 < 100 < high < 110


def test_lines_differ_in_colour_and_in_dash():
    runs = {f"run {index}": RUNS["transformer"] for index in range(4)}
    (panel,) = learning_curves(runs, {"train_loss": FIGURES["train_loss"]}).axes
    assert len({line.get_color() for line in panel.lines}) == 4
    assert len({line.get_linestyle() for line in panel.lines}) == 4


@pytest.mark.parametrize(("count", "marked"), [(30, True), (31, False)])
def test_only_short_lines_have_markers(count, marked):
    runs = {"mta": [{"step": step, "train_loss": 1.0} for step in range(count)]}
    (panel,) = learning_curves(runs, {"train_loss": FIGURES["train_loss"]}).axes
    assert (panel.lines[0].get_marker() not in ("", "None", None)) == marked


def test_eight_long_lines_are_told_apart_without_colour():
    rows = [{"step": step, "train_loss": 1.0} for step in range(60)]
    figure = learning_curves(
        {f"run {index}": rows for index in range(8)}, {"train_loss": FIGURES["train_loss"]}
    )
    check_figure(figure)
    (panel,) = figure.axes
    assert len({line.get_marker() for line in panel.lines} - {"", "None"}) == 8
    assert len({line.get_color() for line in panel.lines}) == 8
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"run {n}" for n in range(8)]


def test_a_dollar_sign_in_a_name_is_no_formula():
    figure = learning_curves({"a$^b$": RUNS["mta"]}, {"train_loss": FIGURES["train_loss"]})
    check_figure(figure)
    (text,) = figure.axes[0].get_legend().get_texts()
    assert (text.get_text(), text.get_parse_math()) == ("a$^b$", False)


SEEDS = [
    [{"step": 10, "heldout_error": 0.1}, {"step": 20, "heldout_error": 0.2, "train_loss": 1.0}],
    [{"step": 10, "heldout_error": 0.3}, {"step": 20, "heldout_error": 0.4}],
    # Not finished yet.
    [{"step": 10, "heldout_error": 0.8}],
]


def test_seeds_share_a_line_their_mean_in_a_band_of_their_deviation():
    figure = learning_curves({"mta": SEEDS[:2], "transformer": RUNS["transformer"]}, FIGURES)
    check_figure(figure)
    loss, error = figure.axes
    mean, alone = error.lines
    np.testing.assert_allclose(mean.get_xydata(), [[10, 20], [20, 30]])
    assert mean.get_label() == "mta (mean ± s.d., 2 seeds)"
    assert alone.get_label() == "transformer"
    (band,) = error.collections
    deviation = np.std([10, 30], ddof=1)
    for step, middle in [(10, 20), (20, 30)]:
        edges = [y for x, y in band.get_paths()[0].vertices.tolist() if x == step]
        assert min(edges) == pytest.approx(middle - deviation)
        assert max(edges) == pytest.approx(middle + deviation)
    # One seed has this figure: that is no mean.
    assert loss.lines[0].get_label() == "mta"
    assert not loss.collections


def test_a_mean_is_drawn_where_all_seeds_have_it():
    (panel,) = learning_curves({"mta": SEEDS}, {"heldout_error": FIGURES["heldout_error"]}).axes
    np.testing.assert_allclose(panel.lines[0].get_xydata(), [[10, 40]])
    assert panel.lines[0].get_label() == "mta (mean ± s.d., 3 seeds)"


def test_seeds_without_a_common_step_have_no_mean():
    seeds = [[{"step": 10, "train_loss": 1.0}], [{"step": 20, "train_loss": 1.0}]]
    with pytest.raises(ValueError, match="2 seeds of 'mta' have no step with 'train_loss' in"):
        learning_curves({"mta": seeds}, FIGURES)


def test_names_below_leave_a_single_panel_its_height():
    runs = {f"run {index}": RUNS["transformer"] for index in range(8)}
    figure = learning_curves(runs, {"train_loss": FIGURES["train_loss"]})
    check_figure(figure)
    few = learning_curves(RUNS, {"train_loss": FIGURES["train_loss"]})
    check_figure(few)
    tall, usual = (one.axes[0].get_window_extent().height for one in (figure, few))
    assert tall > 0.85 * usual
