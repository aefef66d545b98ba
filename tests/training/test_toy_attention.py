import numpy as np
import pytest

from mta_jax.data import BlockSearchConfig
from mta_jax.training.state import make_program
from mta_jax.training.toy_attention import ToySample
from tests.training.tiny import toy_config
from tests.viz.saving import check_figure

TASK = BlockSearchConfig(block_size=3, sequence_length=45, num_heldout_samples=1)


@pytest.fixture(scope="module")
def sample():
    return ToySample.of(TASK, seed=3)


def test_the_block_that_answers_holds_the_question(sample):
    block = sample.context[sample.start : sample.start + sample.block_size]
    assert block == sample.answer
    assert set(sample.question) <= set(block)
    assert len(sample.tokens) == 2 + len(sample.context + sample.question + sample.answer)


def test_the_best_map_goes_from_the_question_to_the_context(sample):
    program = make_program(toy_config())
    where, weights = sample.best_map(program, program.initial_params())
    assert where in ("layer 0, head 0", "layer 0, head 1")
    assert weights.shape == (1 + len(sample.question + sample.answer), len(sample.context))


@pytest.mark.parametrize("around", [None, 4])
def test_the_frame_stays_on_the_block(sample, around):
    weights = np.zeros((6, len(sample.context)))
    weights[:, sample.start : sample.start + 3] = 1.0
    figure = sample.draw({"map": weights}, around=around)
    check_figure(figure)
    panel = figure.axes[0]
    (frame,) = panel.patches
    first = round(frame.get_x() + 0.5)
    shown = panel.images[0].get_array()
    assert shown[:, first : first + 3].min() == 1.0
    assert shown.sum() == 18
    labels = "".join(label.get_text() for label in panel.get_xticklabels())
    assert labels[first : first + 3] == sample.answer
    assert len(labels) == (len(sample.context) if around is None else min(sample.start, 4) + 3 + 4)
