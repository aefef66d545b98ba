"""What the tests of modules and models share."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from flax import nnx

# Compiling is most of the time of a test, and no test is about machine code.
_COMPILER_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    # Later compilers do not have this choice; here it saves two thirds of the time.
    _COMPILER_OPTIONS["xla_cpu_use_fusion_emitters"] = False
quick_jit = functools.partial(jax.jit, compiler_options=_COMPILER_OPTIONS)


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
