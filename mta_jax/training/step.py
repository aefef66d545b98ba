"""The training and evaluation steps, as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import nnx

from mta_jax.data import Batch
from mta_jax.training.loss import cross_entropy, evaluation_sums
from mta_jax.training.optimizer import learning_rate_schedule
from mta_jax.training.state import DROPOUT_STREAM, Program, State
from mta_jax.typing import Array

Arrays = Mapping[str, Array]


def _logits(program: Program, params: Any, batch: Arrays, rngs: nnx.Rngs | None) -> Array:
    return program.model(params)(
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
    uses_dropout = config.model.attention_dropout > 0

    def train_step(state: State, batch: Arrays) -> tuple[State, dict[str, Array]]:
        def dropout_rngs() -> nnx.Rngs:
            key = jax.random.fold_in(jax.random.key(config.seed), DROPOUT_STREAM)
            return nnx.Rngs(dropout=jax.random.fold_in(key, state["step"]))

        def loss(params: Any) -> Array:
            logits = _logits(program, params, batch, dropout_rngs() if uses_dropout else None)
            return cross_entropy(logits, batch["targets"], batch["targets_weights"])

        value, gradient = jax.value_and_grad(loss)(state["params"])
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
        logits = _logits(program, params, batch, rngs=None)
        return evaluation_sums(logits, batch["targets"], batch["targets_weights"])

    return jax.jit(eval_step)
