"""Optimiser and schedule from their config."""

from typing import Any

import jax
import optax

from mta_jax.models.parts import MIXING, part_of
from mta_jax.training.config import OptimizerConfig

# Parts that are no matrices that a decay makes simpler: mixing kernels start as identities,
# norms at one, and lambdas and gates are scalars. Biases of projections are none either.
_NOT_DECAYED = (*MIXING, "norms")


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the chosen decay to `min_ratio` at the last step."""
    peak, decay_steps = config.learning_rate, max(num_steps - config.warmup_steps, 1)
    decay = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * config.min_ratio, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=config.min_ratio),
    }[config.schedule]
    if not config.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def is_decayed(params: Any) -> Any:
    """True for each parameter that weight decay acts on by default."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: (
            part_of([entry.key for entry in path]) not in _NOT_DECAYED and path[-1].key != "bias"
        ),
        params,
    )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW."""
    adamw = optax.adamw(
        learning_rate_schedule(config, num_steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=None if config.decay_all else is_decayed,
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
