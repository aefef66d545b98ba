import numpy as np
import pytest

from mta_jax.viz import loss_comparison
from tests.viz.saving import check_figure

LOSSES = {
    "transformer": {"code": [5.2, 5.4], "docs": [6.5, 6.9]},
    "mta": {"code": [5.0, 5.1], "$docs": [6.2]},
}


def drawn():
    figure = loss_comparison(LOSSES, label="perplexity per byte", title="Title")
    check_figure(figure)
    return figure


def test_each_text_is_a_panel_and_each_kind_a_row():
    figure = drawn()
    assert figure.get_suptitle() == "Title"
    assert [panel.get_title() for panel in figure.axes] == ["code", "docs", "$docs"]
    for panel in figure.axes:
        assert panel.get_xlabel() == "perplexity per byte"
        # The first is highest.
        low, high = panel.get_ylim()
        assert low > high
    names = figure.axes[0].get_yticklabels()
    assert [(name.get_text(), name.get_parse_math()) for name in names] == [
        ("transformer", False),
        ("mta", False),
    ]


def test_a_row_has_the_mean_the_deviation_and_the_seeds():
    code, _, docs = drawn().axes
    for row, (bar, own) in enumerate(zip(code.containers, LOSSES.values(), strict=True)):
        mean, deviation = np.mean(own["code"]), np.std(own["code"], ddof=1)
        np.testing.assert_allclose(bar.lines[0].get_xydata(), [[mean, row]])
        (span,) = bar.lines[2][0].get_segments()
        np.testing.assert_allclose(span, [[mean - deviation, row], [mean + deviation, row]])
        assert code.texts[row].get_text() == f"{mean:.3f} ± {deviation:.3f}"
    hollow = [line for line in code.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata().tolist() for line in hollow] == [
        own["code"] for own in LOSSES.values()
    ]
    # One run deviates from nothing.
    (alone,) = docs.containers
    assert not alone.has_xerr
    assert [text.get_text() for text in docs.texts] == ["6.200"]
    np.testing.assert_allclose(alone.lines[0].get_xydata(), [[6.2, 1]])


def test_kinds_differ_without_colour():
    code, *_ = drawn().axes
    assert len({bar.lines[0].get_marker() for bar in code.containers}) == 2


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_what_was_not_measured_is_refused(values):
    with pytest.raises(ValueError, match=r"losses: 'mta' has \[.*\] for 'code'; must be finite"):
        loss_comparison({"mta": {"code": values}}, label="loss")
