import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.training.loss import scored_tokens, summed_losses

LOGITS = jnp.log(jnp.array([[[0.7, 0.3], [0.4, 0.6]], [[0.2, 0.8], [0.5, 0.5]]]))
TARGETS = jnp.array([[0, 1], [0, 0]])


def test_losses_are_sums_over_weighted_tokens():
    weights = jnp.array([[1.0, 2.0], [1.0, 0.0]])
    # Logits that are not normalised: their softmax denominator is e.
    nll, z_loss = summed_losses(lambda x: x + 1, LOGITS, TARGETS, weights)
    expected = -np.log(0.7) - 2 * np.log(0.6) - np.log(0.2)
    assert float(nll) == pytest.approx(expected, rel=1e-5)
    assert float(z_loss) == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("tokens_at_once", [1, 4, 5, 21, 100])
def test_chunks_give_the_same_losses_and_gradients(tokens_at_once):
    rng = np.random.default_rng(0)
    features, matrix = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 7, 4), (4, 9)))
    targets = jnp.asarray(rng.integers(0, 9, size=(3, 7)))
    weights = jnp.asarray(rng.random((3, 7)), jnp.float32)

    def losses(features, matrix, tokens_at_once):
        nll, z_loss = summed_losses(
            lambda x: x @ matrix, features, targets, weights, tokens_at_once=tokens_at_once
        )
        return nll + 0.1 * z_loss

    run = jax.jit(jax.value_and_grad(losses, argnums=(0, 1)), static_argnums=2)
    for got, expected in zip(
        jax.tree.leaves(run(features, matrix, tokens_at_once)),
        jax.tree.leaves(run(features, matrix, None)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_chunks_keep_logits_out_of_memory():
    vocab_size, num_tokens = 4096, 1024

    def temp_bytes(tokens_at_once):
        def loss(features, matrix):
            targets, weights = jnp.zeros((1, num_tokens), int), jnp.ones((1, num_tokens))
            head = functools.partial(jnp.matmul, b=matrix)
            return summed_losses(head, features, targets, weights, tokens_at_once=tokens_at_once)[0]

        shapes = [
            jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, num_tokens, 8), (8, vocab_size))
        ]
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temp_bytes(None) >= 4 * num_tokens * vocab_size
    assert temp_bytes(64) < 4 * num_tokens * vocab_size / 4


def head_of(logits):
    """Features are the places of tokens, and the head looks their logits up."""
    table = jnp.asarray(logits).reshape(-1, logits.shape[-1])
    return lambda features: table[features[..., 0].astype(jnp.int32)]


@pytest.mark.parametrize("tokens_at_once", [None, 1, 3, 4, 100])
def test_scores_are_those_of_each_token(tokens_at_once):
    places = jnp.arange(4.0).reshape(2, 2, 1)
    nll, is_right = scored_tokens(head_of(LOGITS), places, TARGETS, tokens_at_once=tokens_at_once)
    probabilities = np.exp(-np.asarray(nll))
    np.testing.assert_allclose(probabilities, [[0.7, 0.6], [0.2, 0.5]], rtol=1e-5)
    np.testing.assert_array_equal(is_right, np.argmax(LOGITS, axis=-1) == np.asarray(TARGETS))
