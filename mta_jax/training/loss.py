"""Cross-entropy and what else a batch tells."""

import jax.numpy as jnp
import optax

from mta_jax.typing import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> Float[Array, ""]:
    """Mean negative log-likelihood of the targets in nats, weighted by token."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    return jnp.sum(nll * weights) / jnp.maximum(jnp.sum(weights), 1e-6)


def evaluation_sums(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> dict[str, Array]:
    """Sums over a batch that add up over batches.

    Returns:
      ``nll``: summed negative log-likelihood in nats; ``tokens``: summed weights;
      ``rows``: rows with any target; ``wrong_rows``: those in which any predicted
      target is not the likeliest token. As every token before an error is given,
      that is the share of answers that greedy decoding gets wrong.
    """
    nll = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    wrong = (jnp.argmax(logits, axis=-1) != targets) & (weights > 0)
    return {
        "nll": jnp.sum(nll * weights),
        "tokens": jnp.sum(weights),
        "rows": jnp.sum(jnp.any(weights > 0, axis=1)),
        "wrong_rows": jnp.sum(jnp.any(wrong, axis=1)),
    }
