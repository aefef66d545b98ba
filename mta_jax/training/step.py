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
from mta_jax.parallel.rules import constrain, constrain_state
from mta_jax.training.loss import scored_tokens, summed_losses
from mta_jax.training.optimizer import learning_rate_schedule
from mta_jax.training.partition import together
from mta_jax.training.safety import choose, judge
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
    ``grad_norm`` (before clipping), ``param_norm`` (before the step), ``update_norm``,
    ``learning_rate``, and of `safety` ``is_taken``, ``num_skipped`` and ``stopped_at``. Norms
    are of the parameters that are trained.
    """
    config = program.config
    schedule = learning_rate_schedule(config.optimizer, config.num_steps)

    def objective(
        params: Any, frozen: Any, batch: Arrays, num_tokens: Array, key: Array | None
    ) -> tuple[Array, Array]:
        """What is minimised, and the cross-entropy in it: the share of these rows."""
        model = program.model(together(params, frozen))
        features = _features(model, batch, None if key is None else nnx.Rngs(dropout=key))
        nll, z_loss = summed_losses(
            model.logits,
            features,
            batch["targets"],
            batch["targets_weights"],
            tokens_at_once=config.loss.tokens_at_once,
        )
        return (nll + config.loss.z_loss * z_loss) / num_tokens, nll / num_tokens

    def in_parts(x: Array) -> Array:
        """Rows [B, T] one part after the other: [parts, B / parts, T]."""
        x = x.reshape(config.accumulate, -1, *x.shape[1:])
        return constrain(x, None, "batch", "length")

    def loss_and_gradient(
        params: Any, frozen: Any, batch: Arrays, key: Array | None
    ) -> tuple[Array, Any]:
        """Of the whole batch. Losses of its parts, and so their gradients, add up to it."""
        num_tokens = jnp.maximum(jnp.sum(batch["targets_weights"]), 1e-6)

        def of_rows(rows: Arrays, key: Array | None) -> tuple[Array, Any]:
            gradient_of = jax.value_and_grad(objective, has_aux=True)
            (_, nll), gradient = gradient_of(params, frozen, rows, num_tokens, key)
            return nll, constrain_state(gradient)

        if config.accumulate == 1:
            return of_rows(batch, key)

        def add_part(total: Any, part: tuple[Arrays, Array]) -> tuple[Any, None]:
            rows, index = part
            own = of_rows(rows, None if key is None else jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, own), None

        parts = jax.tree.map(in_parts, batch)
        zero = (jnp.zeros(()), constrain_state(jax.tree.map(jnp.zeros_like, params)))
        total, _ = lax.scan(add_part, zero, (parts, jnp.arange(config.accumulate)))
        return total

    def train_step(state: State, batch: Arrays) -> tuple[State, dict[str, Array]]:
        key = None
        if config.model.attention_dropout > 0:
            key = jax.random.fold_in(jax.random.key(config.seed), DROPOUT_STREAM)
            key = jax.random.fold_in(key, state["step"])
        params = state["params"]
        loss, gradient = loss_and_gradient(params, state.get("frozen", {}), batch, key)
        grad_norm = optax.tree.norm(gradient)
        updates, opt_state = program.optimizer.update(gradient, state["opt_state"], params)
        changed = {"params": optax.apply_updates(params, updates), "opt_state": opt_state}
        if "ema" in state:
            changed["ema"] = optax.incremental_update(
                changed["params"], state["ema"], 1.0 - (config.optimizer.ema_decay or 0.0)
            )
        step = state["step"] + 1
        update_norm = optax.tree.norm(updates)
        is_taken, safety = judge(
            config.safety,
            state["safety"],
            step,
            loss=loss,
            grad_norm=grad_norm,
            update_norm=update_norm,
        )
        changed = choose(is_taken, changed, {name: state[name] for name in changed})
        changed = constrain_state(changed)
        return state | changed | {"step": step, "safety": safety}, {
            "loss": loss,
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(params),
            "update_norm": update_norm,
            # Skipped steps do not count in the optimiser's schedule.
            "learning_rate": schedule(state["step"] - state["safety"]["num_skipped"]),
            "is_taken": is_taken,
            "num_skipped": safety["num_skipped"],
            "stopped_at": safety["stopped_at"],
        }

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(program: Program) -> Callable[..., dict[str, Array]]:
    """The compiled function ``(params, batch, dropout_key=None) -> scores``, each [B, T].

    ``nll`` is the negative log-likelihood of each target in nats; ``is_right`` says
    whether it is the likeliest token.

    Dropout is off, whatever the kind of attention, unless a key is given. (The paper's code
    leaves it on for its baseline.)
    """

    def eval_step(params: Any, batch: Arrays, dropout_key: Array | None = None) -> dict[str, Array]:
        model = program.model(params)
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        nll, is_right = scored_tokens(
            model.logits,
            _features(model, batch, rngs),
            batch["targets"],
            tokens_at_once=program.config.loss.tokens_at_once,
        )
        # Every process reads all of them.
        return {"nll": constrain(nll, None, None), "is_right": constrain(is_right, None, None)}

    return jax.jit(eval_step)
