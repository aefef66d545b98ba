import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.training.loss import cross_entropy, evaluation_sums

LOGITS = jnp.log(jnp.array([[[0.7, 0.3], [0.4, 0.6]], [[0.2, 0.8], [0.5, 0.5]]]))
TARGETS = jnp.array([[0, 1], [0, 0]])


def test_loss_is_the_mean_over_weighted_tokens():
    weights = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    expected = -np.mean(np.log([0.7, 0.6, 0.2]))
    assert float(cross_entropy(LOGITS, TARGETS, weights)) == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_padding_has_zero_loss():
    assert float(cross_entropy(LOGITS, TARGETS, jnp.zeros((2, 2)))) == 0.0


def test_a_row_is_wrong_when_any_weighted_token_is():
    sums = evaluation_sums(LOGITS, TARGETS, jnp.ones((2, 2)))
    assert int(sums["rows"]) == 2
    assert int(sums["wrong_rows"]) == 1
    assert float(sums["nll"]) == pytest.approx(-np.log(0.7 * 0.6 * 0.2 * 0.5), rel=1e-5)


def test_tokens_and_rows_without_weight_do_not_count():
    weights = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    assert int(evaluation_sums(LOGITS, TARGETS, weights)["wrong_rows"]) == 0
    padded = evaluation_sums(LOGITS, TARGETS, jnp.array([[1.0, 1.0], [0.0, 0.0]]))
    assert (int(padded["rows"]), float(padded["tokens"])) == (1, 2.0)
