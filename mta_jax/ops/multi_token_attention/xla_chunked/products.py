"""Matrix products of the compute dtype whose gradients keep full precision."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.typing import Array, DTypeLike


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(spec: str, dtype: DTypeLike, a: Array, b: Array) -> Array:
    """``jnp.einsum(spec, a, b)``, its operands rounded to `dtype`, summed in their own.

    Gradients are rounded nowhere else than in the operands of their own products:
    pieces from many row blocks add up to one gradient, which bfloat16 pieces would
    blur.

    Args:
      spec: an einsum of two operands without repeated or summed-out axes.
      dtype: dtype of the operands of the products.
      a: first operand, in the dtype of the sums.
      b: second operand, likewise.
    """
    precision = lax.Precision.HIGHEST if dtype == a.dtype else None
    return jnp.einsum(
        spec,
        a.astype(dtype),
        b.astype(dtype),
        precision=precision,
        preferred_element_type=a.dtype,
    )


def _forward(spec: str, dtype: DTypeLike, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(spec, dtype, a, b), (a, b)


def _backward(
    spec: str, dtype: DTypeLike, residuals: tuple[Array, Array], dout: Array
) -> tuple[Array, Array]:
    a, b = residuals
    operands, out = spec.split("->")
    first, second = operands.split(",")
    return (
        product(f"{out},{second}->{first}", dtype, dout, b),
        product(f"{first},{out}->{second}", dtype, a, dout),
    )


product.defvjp(_forward, _backward)
