"""Cross-entropy and what else a batch tells."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.parallel.mesh import axis_sizes
from mta_jax.parallel.rules import constrain, num_parts
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
      head: takes features ``[..., D]`` to logits ``[..., V]``.
      features: what the head reads.
      targets: the tokens to predict.
      weights: of each token; zero leaves it out.
      tokens_at_once: a device has logits of only so many tokens in memory at a time, and
        computes them a second time for the gradient; None: of all its tokens.

    Returns:
      Both as sums over the tokens, in nats, weighted.
    """

    def of_tokens(features: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
        logits = _logits(head, features)
        log_denominator = jax.nn.logsumexp(logits, axis=-1)
        nll = jnp.sum((log_denominator - _at(targets, logits)) * weights)
        return nll, jnp.sum(jnp.square(log_denominator) * weights)

    arrays = (features, targets, weights)
    if tokens_at_once is None or tokens_at_once >= _tokens_of_device(targets):
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
      head: takes features ``[..., D]`` to logits ``[..., V]``.
      features: what the head reads.
      targets: the tokens to predict.
      tokens_at_once: a device has logits of only so many tokens in memory at a time; None:
        of all its tokens.

    Returns:
      The negative log-likelihood of each target in nats, and whether it is the likeliest
      token.
    """

    def of_tokens(features: Array, targets: Array) -> tuple[Array, Array]:
        logits = _logits(head, features)
        nll = jax.nn.logsumexp(logits, axis=-1) - _at(targets, logits)
        return nll, jnp.argmax(logits, axis=-1) == targets

    if tokens_at_once is None or tokens_at_once >= _tokens_of_device(targets):
        return of_tokens(features, targets)
    chunks = tuple(_in_chunks(x, tokens_at_once) for x in (features, targets))
    scores = lax.map(lambda chunk: of_tokens(*chunk), chunks)
    return jax.tree.map(lambda x: _from_chunks(x, targets.shape), scores)


def _logits(head: Callable[[Array], Array], features: Array) -> Array:
    logits = head(features).astype(jnp.float32)
    return constrain(logits, "batch", "length", *[None] * (logits.ndim - 3), "vocab")


def _at(targets: Array, logits: Array) -> Array:
    """The logit of each target; no look-up, which would need the whole vocabulary in one place."""
    is_target = (
        lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]
    )
    return jnp.sum(jnp.where(is_target, logits, 0), axis=-1)


def _parts() -> tuple[int, int]:
    """Parts that a mesh splits batch and length into."""
    sizes = axis_sizes()
    return (num_parts("batch", sizes), num_parts("length", sizes)) if sizes else (1, 1)


def _tokens_of_device(targets: Array) -> int:
    return targets.size // math.prod(_parts())


def _in_chunks(x: Array, size: int) -> Array:
    """[B, T, ...] to [chunks, parts of B, parts of T, size, ...].

    Each chunk has tokens of every device. Behind the last of them there are zeros.
    """
    (batch, length), (batch_parts, length_parts) = x.shape[:2], _parts()
    rest = x.shape[2:]
    x = x.reshape(batch_parts, batch // batch_parts, length_parts, length // length_parts, *rest)
    x = x.swapaxes(1, 2).reshape(batch_parts, length_parts, -1, *rest)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % size), *((0, 0) for _ in rest)))
    x = jnp.moveaxis(x.reshape(batch_parts, length_parts, -1, size, *rest), 2, 0)
    return constrain(x, None, "batch", "length", None, *[None] * len(rest))


def _from_chunks(x: Array, shape: tuple[int, ...]) -> Array:
    """What `_in_chunks` made of an array of this shape, back to it."""
    (batch, length), (batch_parts, length_parts) = shape, _parts()
    rows, columns = batch // batch_parts, length // length_parts
    x = jnp.moveaxis(x, 0, 2).reshape(batch_parts, length_parts, -1)[..., : rows * columns]
    x = x.reshape(batch_parts, length_parts, rows, columns)
    return x.swapaxes(1, 2).reshape(shape)
