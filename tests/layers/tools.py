"""What the tests of modules and models share."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from flax import nnx

PLAIN: dict[str, Any] = {
    "pre_kq_kernel_size": None,
    "pre_head_kernel_size": None,
    "post_kq_kernel_size": None,
    "post_head_kernel_size": None,
    "group_norm": None,
    "rope_theta": None,
}
"""Settings of `MultiTokenAttention` that make it ordinary attention."""


def drawn(build: Callable[[], Any], *, seed: int = 0, scale: float = 0.4) -> Any:
    """A module whose parameters, mixing kernels and norms too, are random numbers.

    NumPy draws them: initializers, each compiled for each shape, would take seconds.
    """
    graphdef, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=scale), leaf.dtype), state
    )
    return nnx.merge(graphdef, state)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value(parameter: nnx.Param) -> np.ndarray:
    """A parameter in float64."""
    return np.asarray(parameter[...], np.float64)


@contextlib.contextmanager
def unchecked_types() -> Iterator[None]:
    """Lets calls reach the package's own checks with what its signatures forbid."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
