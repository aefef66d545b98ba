"""Which steps are bad, decided inside the compiled step, before the update."""

from typing import Any

import jax
import jax.numpy as jnp

from mta_jax.training.config import SafetyConfig
from mta_jax.typing import Array

# The recent mean of the loss forgets with this factor a step, and says nothing before it
# has seen so many steps.
_DECAY, _FEWEST = 0.98, 20

Safety = dict[str, Array]


def initial_safety() -> Safety:
    """What a run remembers of its steps.

    Returns:
      Scalars: ``loss_sum`` and ``loss_weight`` (recent mean of the loss, decayed),
      ``num_seen`` (good steps), ``num_skipped`` (bad steps), ``num_in_a_row`` (bad steps
      since the last good one), ``stopped_at`` (step, from 1, that ended the run, or 0).
    """
    counts = ("num_seen", "num_skipped", "num_in_a_row", "stopped_at")
    return {
        **{name: jnp.zeros((), jnp.float32) for name in ("loss_sum", "loss_weight")},
        **{name: jnp.zeros((), jnp.int32) for name in counts},
    }


def judge(
    config: SafetyConfig,
    safety: Safety,
    step: Array,
    *,
    loss: Array,
    grad_norm: Array,
    update_norm: Array,
) -> tuple[Array, Safety]:
    """Judges a step by its loss and gradient.

    Args:
      config: what is a bad step, and what follows.
      safety: what is remembered.
      step: this step, from 1.
      loss: of its batch.
      grad_norm: of its gradient.
      update_norm: of the change that it would make.

    Returns:
      Whether to take the step, and what to remember. After the step that ends a run no
      step is taken: the loop learns of it later, and the state is the one before.
    """
    is_good = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)
    if config.spike_ratio is not None:
        mean = safety["loss_sum"] / jnp.maximum(safety["loss_weight"], 1e-9)
        is_known = safety["num_seen"] >= _FEWEST
        is_good &= ~(is_known & (loss > config.spike_ratio * mean))
    in_a_row = jnp.where(is_good, 0, safety["num_in_a_row"] + 1)
    limit = 1 if config.on_bad_step == "stop" else config.max_skips
    stopped_at = jnp.where(
        (safety["stopped_at"] == 0) & (in_a_row >= limit), step, safety["stopped_at"]
    )
    has_stopped = safety["stopped_at"] > 0
    is_taken = is_good & ~has_stopped
    remembered = {
        "loss_sum": _DECAY * safety["loss_sum"] + loss,
        "loss_weight": _DECAY * safety["loss_weight"] + 1.0,
        "num_seen": safety["num_seen"] + 1,
        "num_skipped": safety["num_skipped"],
        "num_in_a_row": in_a_row,
        "stopped_at": stopped_at,
    }
    skipped = safety | {
        "num_skipped": safety["num_skipped"] + 1,
        "num_in_a_row": in_a_row,
        "stopped_at": stopped_at,
    }
    judged = jax.tree.map(lambda a, b: jnp.where(is_good, a, b), remembered, skipped)
    return is_taken, jax.tree.map(lambda a, b: jnp.where(has_stopped, a, b), safety, judged)


def choose(is_taken: Array, new: Any, old: Any) -> Any:
    """The new tree where the step is taken, else the old one."""
    return jax.tree.map(lambda a, b: jnp.where(is_taken, a, b), new, old)
