"""The training and evaluation steps, as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from mta_jax.data import Batch
from mta_jax.models import Transformer
from mta_jax.training.loss import evaluation_sums, summed_losses
from mta_jax.training.optimizer import learning_rate_schedule
from mta_jax.training.state import DROPOUT_STREAM, Program, State
from mta_jax.typing import Array

Arrays = Mapping[str, Array]


def _features(model: Transformer, batch: Arrays, rngs: nnx.Rngs | None) -> Array:
    return model.features(
        batch["inputs"],
        positions=batch.get("inputs_positions"),
        segment_ids=batch.get("inputs_segment_ids"),
        deterministic=rngs is None,
        rngs=rngs,
    )


def make_train_step(program: Program) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """The compiled step ``(state, batch) -> (new state, metrics)``.

    The old state is donated. Metrics are the scalars ``loss`` (nats per token),
    ``grad_norm`` (before clipping) and ``learning_rate``.
    """
    config = program.config
    schedule = learning_rate_schedule(config.optimizer, config.num_steps)

    def objective(
        params: Any, batch: Arrays, num_tokens: Array, key: Array | None
    ) -> tuple[Array, Array]:
        """What is minimised, and the cross-entropy in it: the share of these rows."""
        model = program.model(params)
        features = _features(model, batch, None if key is None else nnx.Rngs(dropout=key))
        nll, z_loss = summed_losses(
            model.logits,
            features,
            batch["targets"],
            batch["targets_weights"],
            tokens_at_once=config.loss.tokens_at_once,
        )
        return (nll + config.loss.z_loss * z_loss) / num_tokens, nll / num_tokens

    def loss_and_gradient(params: Any, batch: Arrays, key: Array | None) -> tuple[Array, Any]:
        """Of the whole batch. Losses of its parts, and so their gradients, add up to it."""
        num_tokens = jnp.maximum(jnp.sum(batch["targets_weights"]), 1e-6)

        def of_rows(rows: Arrays, key: Array | None) -> tuple[Array, Any]:
            gradient_of = jax.value_and_grad(objective, has_aux=True)
            (_, nll), gradient = gradient_of(params, rows, num_tokens, key)
            return nll, gradient

        if config.accumulate == 1:
            return of_rows(batch, key)

        def add_part(total: Any, part: tuple[Arrays, Array]) -> tuple[Any, None]:
            rows, index = part
            own = of_rows(rows, None if key is None else jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, own), None

        parts = jax.tree.map(lambda x: x.reshape(config.accumulate, -1, *x.shape[1:]), batch)
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = lax.scan(add_part, zero, (parts, jnp.arange(config.accumulate)))
        return total

    def train_step(state: State, batch: Arrays) -> tuple[State, dict[str, Array]]:
        key = None
        if config.model.attention_dropout > 0:
            key = jax.random.fold_in(jax.random.key(config.seed), DROPOUT_STREAM)
            key = jax.random.fold_in(key, state["step"])
        value, gradient = loss_and_gradient(state["params"], batch, key)
        updates, opt_state = program.optimizer.update(gradient, state["opt_state"], state["params"])
        new_state = {
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return new_state, {
            "loss": value,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": schedule(state["step"]),
        }

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(program: Program) -> Callable[[Any, Batch], dict[str, Array]]:
    """The compiled function ``(params, batch) -> sums``; see `evaluation_sums`.

    Dropout is off, whatever the kind of attention. (The paper's code leaves it on
    for its baseline.)
    """

    def eval_step(params: Any, batch: Arrays) -> dict[str, Array]:
        model = program.model(params)
        logits = model.logits(_features(model, batch, rngs=None))
        return evaluation_sums(logits, batch["targets"], batch["targets_weights"])

    return jax.jit(eval_step)
