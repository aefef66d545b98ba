"""Cross-entropy and what else a batch tells."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mta_jax.typing import Array, Bool, Float, Int


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

    arrays = (features, targets, weights)
    if tokens_at_once is None or tokens_at_once >= targets.size:
        return of_tokens(*arrays)

    def add_chunk(total: tuple, chunk: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, jax.checkpoint(of_tokens)(*chunk)), None

    zero = (jnp.zeros(()), jnp.zeros(()))
    # Behind the last token weights are zero.
    chunks = tuple(_in_chunks(x, tokens_at_once) for x in arrays)
    total, _ = lax.scan(add_chunk, zero, chunks)
    return total


def scored_tokens(
    head: Callable[[Array], Array],
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    *,
    tokens_at_once: int | None = None,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """How each target fares.

    Args:
      head: takes features ``[B, T, D]`` to logits ``[B, T, V]``.
      features: what the head reads.
      targets: the tokens to predict.
      tokens_at_once: logits of only so many tokens are in memory at a time; None: of all.

    Returns:
      The negative log-likelihood of each target in nats, and whether it is the likeliest
      token.
    """

    def of_tokens(features: Array, targets: Array) -> tuple[Array, Array]:
        logits = head(features).astype(jnp.float32)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return nll, jnp.argmax(logits, axis=-1) == targets

    if tokens_at_once is None or tokens_at_once >= targets.size:
        return of_tokens(features, targets)
    chunks = tuple(_in_chunks(x, tokens_at_once) for x in (features, targets))
    scores = lax.map(lambda chunk: of_tokens(*chunk), chunks)
    return jax.tree.map(lambda x: x.reshape(-1)[: targets.size].reshape(targets.shape), scores)


def _in_chunks(x: Array, size: int) -> Array:
    """[B, T, ...] to [chunks, 1, size, ...], padded with zeros behind the last token."""
    x = x.reshape(-1, *x.shape[2:])
    x = jnp.pad(x, ((0, -len(x) % size), *((0, 0) for _ in x.shape[1:])))
    return x.reshape(-1, 1, size, *x.shape[1:])
