"""A few steps of training for any NNX model."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx


def losses_of_training(
    model: nnx.Module, loss: Callable[[Any], jax.Array], *, steps: int = 8, rate: float = 3e-3
) -> tuple[list[float], Any]:
    """The loss before each step of Adam, and the trained model."""
    graphdef, params = nnx.split(model)
    optimizer = optax.adam(rate)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(lambda params: loss(nnx.merge(graphdef, params)))(
            params
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses, nnx.merge(graphdef, params)
