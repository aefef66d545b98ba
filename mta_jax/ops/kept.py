"""What of attention is worth keeping for its gradient, where other things are computed again."""

import jax
from jax.ad_checkpoint import checkpoint_name

from mta_jax.typing import Array

KEPT = "attention"
"""Name of outputs and row statistics: with both, a gradient does not need the forward pass."""

attention_is_kept = jax.checkpoint_policies.save_only_these_names(KEPT)
"""A policy of `jax.checkpoint`: all but attention is computed again."""


def keep(x: Array) -> Array:
    """The same, under the name that the policy goes by."""
    return checkpoint_name(x, KEPT)
