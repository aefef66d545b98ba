from mta_jax import viz
from tests.viz.saving import check_figure


def test_bars_are_means_and_points_are_runs():
    errors = {"transformer": {"N=5 all": [0.5, 1.0], "N=8 all": [0.2]}, "mta": {"N=8 all": [0.0]}}
    (axes,) = viz.answer_errors(errors).axes
    assert [bar.get_height() for bar in axes.patches] == [75.0, 20.0, 0.0]
    points = [tuple(line.get_ydata()) for line in axes.lines]
    assert points == [(50.0, 100.0), (20.0,), (0.0,)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["N=5 all", "N=8 all"]
    assert axes.get_ylabel() == "wrong answers, %"
    # Kinds stand side by side, and differ without their colours.
    first, second = axes.patches[1], axes.patches[2]
    assert first.get_x() + first.get_width() < second.get_x() + 1e-6
    assert first.get_hatch() != second.get_hatch()


def test_eight_kinds_are_told_apart_without_colour():
    errors = {f"$kind {number}": {"N=5 all": [0.1, 0.2]} for number in range(8)}
    figure = viz.answer_errors(errors)
    check_figure(figure)
    (axes,) = figure.axes
    assert len({bar.get_hatch() for bar in axes.patches}) == 8
    texts = axes.get_legend().get_texts()
    assert [(text.get_text(), text.get_parse_math()) for text in texts] == [
        (kind, False) for kind in errors
    ]
    # Beside the bars.
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
