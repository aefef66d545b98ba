import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.training.config import LossConfig, OptimizerConfig
from mta_jax.training.state import make_program
from mta_jax.training.step import make_train_step
from tests.training.tiny import toy_config

BASE = dataclasses.replace(
    toy_config(),
    model=dataclasses.replace(toy_config().model, attention_dropout=0.0),
    # With so large an epsilon, the first update is the gradient itself, nearly.
    optimizer=OptimizerConfig(
        learning_rate=1.0, schedule="constant", epsilon=100.0, weight_decay=0.0, clip_norm=None
    ),
)


def ragged_batch(config, *, num_rows=4):
    """Rows of which each has another share of weighted tokens."""
    vocab_size = make_program(config).config.model.vocab_size
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, size=(num_rows, 22))
    weights = np.arange(21) < np.array([[21], [3], [0], [11]])
    return {
        "inputs": jnp.asarray(tokens[:, :-1]),
        "targets": jnp.asarray(tokens[:, 1:]),
        "targets_weights": jnp.asarray(weights, jnp.float32),
    }


def one_step(config, batch):
    program = make_program(config)
    state, metrics = make_train_step(program)(program.initial_state(), batch)
    return jax.device_get((state["params"], metrics))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_give_the_step_of_the_whole(accumulate):
    batch = ragged_batch(BASE)
    params, metrics = one_step(BASE, batch)
    got_params, got_metrics = one_step(dataclasses.replace(BASE, accumulate=accumulate), batch)
    for name, expected in metrics.items():
        np.testing.assert_allclose(got_metrics[name], expected, rtol=1e-5)
    start = jax.device_get(make_program(BASE).initial_state()["params"])
    for before, got, expected in zip(
        *map(jax.tree.leaves, (start, got_params, params)), strict=True
    ):
        update = expected - before
        assert np.any(update)
        # Parameters are near 1, and an update is no more exact than they are.
        error = np.max(np.abs(got - expected))
        assert error <= 1e-4 * np.max(np.abs(update)) + 1e-7


def test_parts_draw_dropout_of_their_own():
    config = dataclasses.replace(toy_config(), accumulate=2)
    batch = ragged_batch(config)
    # Two parts of equal rows: with the same dropout their gradients would be the same.
    twice = jax.tree.map(lambda x: jnp.concatenate([x[:1], x[:1]]), batch)
    alone = jax.tree.map(lambda x: x[:1], batch)
    _, of_two = one_step(config, twice)
    _, of_one = one_step(dataclasses.replace(config, accumulate=1), alone)
    assert abs(of_two["loss"] - of_one["loss"]) > 1e-4


def test_z_loss_is_minimised_and_not_reported():
    batch = ragged_batch(BASE)
    _, plain = one_step(BASE, batch)
    _, with_z_loss = one_step(dataclasses.replace(BASE, loss=LossConfig(z_loss=0.1)), batch)
    assert with_z_loss["loss"] == plain["loss"]
    assert with_z_loss["grad_norm"] != plain["grad_norm"]


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match=r"accumulate 3: must divide data.batch_size 4"):
        dataclasses.replace(BASE, accumulate=3)
