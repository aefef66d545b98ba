"""Feed-forward block."""

import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.initializers import projection_init
from mta_jax.parallel.rules import constrain
from mta_jax.typing import Array, DTypeLike, Float


def default_mlp_dim(embed_dim: int) -> int:
    """Two thirds of 4 D, rounded up to a multiple of 256, as in the paper's code."""
    return -(-(8 * embed_dim // 3) // 256) * 256


class SwiGLU(nnx.Module):
    """``down(silu(gate(x)) * up(x))`` without biases (https://arxiv.org/abs/2002.05202).

    Args:
      embed_dim: D.
      mlp_dim: F.
      dtype: dtype of the computation; default: that of input and parameters.
      param_dtype: dtype of the parameters.
      rngs: source of the `params` key.
    """

    def __init__(
        self,
        embed_dim: int,
        mlp_dim: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        def linear(features_in: int, features_out: int) -> nnx.Linear:
            return nnx.Linear(
                features_in,
                features_out,
                use_bias=False,
                kernel_init=projection_init(features_in),
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.gate_proj = linear(embed_dim, mlp_dim)
        self.up_proj = linear(embed_dim, mlp_dim)
        self.down_proj = linear(mlp_dim, embed_dim)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Applies the block to each token."""
        hidden = nnx.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(constrain(hidden, "batch", "length", "mlp"))
