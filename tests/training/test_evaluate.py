import grain
import numpy as np
import pytest

from mta_jax.data import ByteTokenizer, LetterTokenizer
from mta_jax.errors import UserError
from mta_jax.training.evaluate import Totals, figures_of, total

BATCH = {
    "targets": np.array([[97, 257], [98, 0]], np.int32),
    "targets_weights": np.array([[1.0, 1.0], [1.0, 0.0]], np.float32),
}
SCORES = {
    "nll": np.array([[1.0, 2.0], [3.0, 99.0]], np.float32),
    "is_right": np.array([[True, False], [True, False]]),
}


def totals(batches=1):
    found = Totals()
    for _ in range(batches):
        found.add(BATCH, SCORES, ByteTokenizer.byte_lengths)
    return found


def test_tokens_without_weight_do_not_count():
    found = totals()
    assert (found.tokens, found.nll, found.rows) == (3, 6.0, 2)
    # The end of a document is a token and no byte.
    assert found.text_bytes == 2


def test_a_row_is_wrong_when_any_weighted_token_is():
    assert totals().wrong_rows == 1
    assert figures_of(totals(), whole_answers=True) == {"loss": 2.0, "error": 0.5}


def test_figures_of_text():
    figures = figures_of(totals(3), whole_answers=False)
    assert figures["loss"] == 2.0
    assert figures["perplexity"] == pytest.approx(np.exp(2.0))
    assert figures["bits_per_byte"] == pytest.approx(6.0 / np.log(2) / 2)


def test_a_held_out_set_without_tokens_is_said():
    empty = BATCH | {"targets_weights": np.zeros((2, 2), np.float32)}
    batches = grain.MapDataset.source([empty])
    with pytest.raises(UserError, match="held-out set wiki: holds no token"):
        total(lambda *_: SCORES, None, batches, LetterTokenizer(), name="wiki")
