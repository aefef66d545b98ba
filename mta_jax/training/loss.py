"""Cross-entropy and what else a batch tells."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mta_jax.typing import Array, Float, Int


def summed_losses(
    head: Callable[[Array], Array],
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    tokens_at_once: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood of the targets, and the z-loss.

    The z-loss is the squared logarithm of the softmax denominator, which keeps logits from
    drifting (PaLM, https://arxiv.org/abs/2204.02311, section 5).

    Args:
      head: takes features ``[B, T, D]`` to logits ``[B, T, V]``.
      features: what the head reads.
      targets: the tokens to predict.
      weights: of each token; zero leaves it out.
      tokens_at_once: logits of only so many tokens are in memory at a time, and computed
        a second time for the gradient; None: all at once.

    Returns:
      Both as sums over the tokens, in nats, weighted.
    """

    def of_tokens(features: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
        logits = head(features).astype(jnp.float32)
        log_denominator = jax.nn.logsumexp(logits, axis=-1)
        likelihood = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        nll = jnp.sum((log_denominator - likelihood) * weights)
        return nll, jnp.sum(jnp.square(log_denominator) * weights)

    num_tokens = targets.size
    if tokens_at_once is None or tokens_at_once >= num_tokens:
        return of_tokens(features, targets, weights)

    def in_chunks(x: Array) -> Array:
        x = x.reshape(num_tokens, *x.shape[2:])
        behind = -num_tokens % tokens_at_once
        # Weights of zero behind the last token.
        x = jnp.pad(x, ((0, behind), *((0, 0) for _ in x.shape[1:])))
        return x.reshape(-1, 1, tokens_at_once, *x.shape[1:])

    def add_chunk(total: tuple, chunk: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, jax.checkpoint(of_tokens)(*chunk)), None

    zero = (jnp.zeros(()), jnp.zeros(()))
    total, _ = lax.scan(add_chunk, zero, tuple(map(in_chunks, (features, targets, weights))))
    return total


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
