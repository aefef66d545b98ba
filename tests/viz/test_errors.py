from mta_jax import viz


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
