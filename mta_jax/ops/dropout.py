"""Dropout as a pure function of its random key."""

import jax
import jax.numpy as jnp

from mta_jax.typing import Array, DropoutKey, Float


def dropout(x: Float[Array, "..."], rate: float, key: DropoutKey) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
