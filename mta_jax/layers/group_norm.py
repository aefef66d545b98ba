"""Normalisation of each head's output, with a depth factor or a gate."""

import math
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.initializers import projection_init
from mta_jax.typing import Array, DTypeLike, Float

GroupNormScaling = Literal["none", "depth", "gate"]
"""What follows the normalisation: nothing, a fixed factor that shrinks with depth
(first version of the paper), or a sigmoid gate per token and head (the paper's
default)."""


def lambda_init(layer_index: int) -> float:
    """``0.8 - 0.6 exp(-0.3 layer_index)``, layers counted from 0.

    From Differential Transformer (https://arxiv.org/abs/2410.05258).

    Example:
      >>> round(lambda_init(0), 2), round(lambda_init(20), 2)
      (0.2, 0.8)
    """
    return 0.8 - 0.6 * math.exp(-0.3 * layer_index)


class GroupNorm(nnx.Module):
    """RMSNorm of each head's output, then an optional scaling (paper section 3.3).

    The norm's weight, and the gate, are shared by the heads of a layer::

        y = rms_norm(x) * weight
        out = y                                   scaling "none"
        out = y * (1 - lambda_init(layer_index))  scaling "depth"
        out = y * sigmoid(gate(y))                scaling "gate", gate: H -> 1

    Args:
      head_size: H.
      scaling: see above.
      layer_index: position of the layer, for scaling "depth".
      embed_dim: model width, for scaling "gate": its inverse root is the spread of the
        gate's weight.
      epsilon: added to the mean square.
      dtype: dtype of the output; the norm's statistics are float32.
      param_dtype: dtype of the parameters.
      rngs: source of the `params` key.

    Example:
      >>> norm = GroupNorm(8, scaling="gate", embed_dim=16, rngs=nnx.Rngs(0))
      >>> x = jnp.ones((1, 3, 2, 8))  # [batch, length, heads, head size]
      >>> norm(x).shape
      (1, 3, 2, 8)
      >>> norm.openness(x).shape
      (1, 3, 2)
    """

    def __init__(
        self,
        head_size: int,
        *,
        scaling: GroupNormScaling = "gate",
        layer_index: int = 0,
        embed_dim: int | None = None,
        epsilon: float = 1e-5,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if scaling not in ("none", "depth", "gate"):
            raise ValueError(f"group norm scaling {scaling!r}: must be 'none', 'depth' or 'gate'")
        if scaling == "gate" and embed_dim is None:
            raise ValueError("group norm scaling 'gate' without embed_dim: its weight needs it")
        self.norm = nnx.RMSNorm(
            head_size, epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.factor = 1.0 - lambda_init(layer_index) if scaling == "depth" else 1.0
        self.gate = (
            nnx.Linear(
                head_size,
                1,
                kernel_init=projection_init(embed_dim or 1),
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            if scaling == "gate"
            else None
        )

    def __call__(self, x: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
        """Normalises and scales over the last axis."""
        y = self.norm(x)
        if self.gate is not None:
            return y * nnx.sigmoid(self.gate(y))
        return y * jnp.asarray(self.factor, y.dtype)

    def openness(self, x: Float[Array, "B T N H"]) -> Float[Array, "B T N"]:
        """How far the gate is open for each token and head, from 0 to 1.

        Raises:
          ValueError: where the scaling is not "gate".
        """
        if self.gate is None:
            raise ValueError("group norm without a gate: scaling must be 'gate'")
        return nnx.sigmoid(self.gate(self.norm(x)))[..., 0]
