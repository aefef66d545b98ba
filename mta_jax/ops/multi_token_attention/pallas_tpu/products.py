"""Matrix products inside kernels."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from mta_jax.typing import Array, Float


def dot(a: Array, b: Array, contract: tuple[int, int], *, interpret: Any) -> Array:
    """Matrix product over one axis of each, accumulated in float32."""
    if interpret:
        # A CPU has no such product of bfloat16; float32 holds these factors exactly.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    # Float32 operands would be rounded to bfloat16 by default.
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def sum_of_lanes(x: Float[Array, "rows lanes"], *, interpret: Any) -> Float[Array, "rows lanes"]:
    """The sum of each row of float32, in every lane.

    The matrix unit takes it in three parts, of which each is a number of bfloat16 and which make up
    `x`: adding up lanes of a register takes four times as long.
    """
    ones = jnp.ones((x.shape[1], x.shape[1]), jnp.bfloat16)
    total = jnp.zeros_like(x)
    for _ in range(3):
        part = x.astype(jnp.bfloat16)
        total += dot(part, ones, (1, 0), interpret=interpret)
        x = x - part.astype(jnp.float32)
    return total
