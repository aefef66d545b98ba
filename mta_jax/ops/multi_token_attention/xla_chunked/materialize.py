"""Has XLA compute something once, however many read it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, Float


def materialized(
    function: Callable[..., Array], scalar: Float[Array, ""], *arrays: Array | None
) -> Array:
    """``function(*arrays)``, kept from being fused into what reads it.

    XLA takes a sum of shifted maps for cheap arithmetic and repeats it for each of its
    readers, row sums among them. Its CPU compiler drops optimization barriers before
    it fuses, but never fuses across a conditional whose outcome it cannot know.

    Args:
      function: what to compute.
      scalar: any element of a parameter. Where it is NaN, so is the whole result.
      *arrays: arguments of `function`.
    """
    if target_platform() != "cpu":
        return lax.optimization_barrier(function(*arrays))
    out = jax.eval_shape(function, *arrays)
    return lax.cond(
        scalar == scalar,
        function,
        lambda *_: jnp.broadcast_to(scalar.astype(out.dtype), out.shape),
        *arrays,
    )
