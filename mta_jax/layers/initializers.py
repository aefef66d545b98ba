"""How weights and mixing kernels start."""

from typing import Literal

import jax
import jax.numpy as jnp

from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.typing import Array, DropoutKey, DTypeLike, Float, KeyPadding

KernelInit = Literal["identity", "constant", "uniform", "normal", "diagonal", "zero"]
"""Start of a mixing kernel (paper section 4.6 compares identity, constant and zero).

========  =========================================================================
identity  leaves attention as it is: 1 on the position itself, 0 elsewhere
constant  0.3 everywhere, the paper's value
uniform   uniform in [-1, 1]
normal    normal, standard deviation fan-in ** -0.5
diagonal  1 on the taps (query - t, key - t), which sums over a run of matching
          tokens; the identity for head mixing
zero      0 everywhere
========  =========================================================================
"""

CONSTANT = 0.3


def projection_init(fan_in: int) -> jax.nn.initializers.Initializer:
    """Normal with standard deviation ``fan_in ** -0.5``, cut at three deviations.

    As in the paper's code: every projection and the embedding start this way.
    """
    return jax.nn.initializers.truncated_normal(fan_in**-0.5, lower=-3.0, upper=3.0)


def kq_kernel(
    init: KernelInit,
    shape: tuple[int, int, int],
    *,
    key_padding: KeyPadding,
    key: DropoutKey,
    dtype: DTypeLike,
) -> Float[Array, "N Cq Ck"]:
    """A new key-query kernel of the given [N, Cq, Ck] shape."""
    _, query_size, key_size = shape
    centre, _ = key_padding_widths(key_size, key_padding)
    if init == "identity":
        return identity_kq_kernel(shape, key_padding=key_padding, dtype=dtype)
    if init == "diagonal":
        steps = jnp.arange(min(query_size, centre + 1))
        return jnp.zeros(shape, dtype).at[:, query_size - 1 - steps, centre - steps].set(1)
    return _dense_init(init, shape, fan_in=query_size * key_size, key=key, dtype=dtype)


def head_kernel(
    init: KernelInit, shape: tuple[int, int, int], *, key: DropoutKey, dtype: DTypeLike
) -> Float[Array, "M Ch Ch"]:
    """A new head kernel of the given [M, Ch, Ch] shape."""
    if init in ("identity", "diagonal"):
        return identity_head_kernel(shape, dtype=dtype)
    return _dense_init(init, shape, fan_in=shape[1], key=key, dtype=dtype)


def identity_kq_kernel(
    shape: tuple[int, int, int], *, key_padding: KeyPadding, dtype: DTypeLike
) -> Float[Array, "N Cq Ck"]:
    """The key-query kernel that leaves a map as it is."""
    centre, _ = key_padding_widths(shape[2], key_padding)
    return jnp.zeros(shape, dtype).at[:, -1, centre].set(1)


def identity_head_kernel(
    shape: tuple[int, int, int], *, dtype: DTypeLike
) -> Float[Array, "M Ch Ch"]:
    """The head kernel that leaves the maps as they are."""
    return jnp.broadcast_to(jnp.eye(shape[1], dtype=dtype), shape)


def _dense_init(
    init: KernelInit, shape: tuple[int, ...], *, fan_in: int, key: DropoutKey, dtype: DTypeLike
) -> Array:
    if init == "constant":
        return jnp.full(shape, CONSTANT, dtype)
    if init == "uniform":
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
    if init == "normal":
        return jax.random.normal(key, shape, dtype) * fan_in**-0.5
    if init == "zero":
        return jnp.zeros(shape, dtype)
    raise ValueError(
        f"kernel init {init!r}: must be identity, constant, uniform, normal, diagonal or zero"
    )
