"""Query, key, value and output projections with rotary embedding."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from mta_jax.layers.initializers import projection_init
from mta_jax.ops.rope import RopeLayout, RopeScaling, apply_rope
from mta_jax.typing import Array, Float, Int


def heads_projection(
    features: int,
    num_heads: int,
    head_size: int,
    *,
    kernel_init: Initializer | None = None,
    use_bias: bool = False,
    **options: Any,
) -> nnx.LinearGeneral:
    """A projection [B, T, D] -> [B, T, heads, size]; options as of `flax.nnx.LinearGeneral`."""
    return nnx.LinearGeneral(
        features,
        (num_heads, head_size),
        kernel_init=projection_init(features) if kernel_init is None else kernel_init,
        use_bias=use_bias,
        **options,
    )


def output_projection(
    num_heads: int,
    head_size: int,
    features: int,
    *,
    kernel_init: Initializer | None = None,
    use_bias: bool = False,
    **options: Any,
) -> nnx.LinearGeneral:
    """A projection [B, T, heads, size] -> [B, T, D]; options as of `flax.nnx.LinearGeneral`."""
    return nnx.LinearGeneral(
        (num_heads, head_size),
        features,
        axis=(-2, -1),
        kernel_init=projection_init(num_heads * head_size) if kernel_init is None else kernel_init,
        use_bias=use_bias,
        **options,
    )


def rotate(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    *,
    positions: Int[Array, "B T"] | None,
    key_positions: Int[Array, "B S"] | None,
    theta: float | None,
    layout: RopeLayout,
    scaling: RopeScaling | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S K H"]]:
    """Applies rotary embedding to queries and keys; `theta` None leaves them alone.

    Positions default to 0, 1, 2, ...; the key positions to those of the queries
    where both have the same length.
    """
    if theta is None:
        return q, k
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2])
        default_key_positions = jnp.broadcast_to(jnp.arange(k.shape[1]), k.shape[:2])
    else:
        default_key_positions = positions
    if key_positions is None:
        key_positions = default_key_positions
    if key_positions.shape != k.shape[:2]:
        raise ValueError(
            f"key_positions has shape {key_positions.shape}: expected {k.shape[:2]}; give them "
            "where queries and keys differ in length"
        )
    return (
        apply_rope(q, positions, theta=theta, layout=layout, scaling=scaling),
        apply_rope(k, key_positions, theta=theta, layout=layout, scaling=scaling),
    )
