"""The modules of this package as Flax Linen modules.

Each takes the arguments of its NNX namesake by name, and has its parameters by the same
names: ``MultiTokenAttention(num_heads=8, in_features=256)``, then `init` and `apply` as of
any Linen module. Dropout draws from the ``dropout`` stream of `apply`.
"""

from typing import Any

from flax.nnx.bridge.wrappers import to_linen_class

from mta_jax import layers, models
from mta_jax.typing import Array

__all__ = [
    "DifferentialAttention",
    "GroupNorm",
    "HeadMixing",
    "KeyQueryConvolution",
    "MultiTokenAttention",
    "MultiTokenAttentionFn",
    "Transformer",
]

_KeyQueryConvolution: Any = to_linen_class(layers.KeyQueryConvolution)
_HeadMixing: Any = to_linen_class(layers.HeadMixing)
_GroupNorm: Any = to_linen_class(layers.GroupNorm)
_MultiTokenAttention: Any = to_linen_class(layers.MultiTokenAttention, keep_rngs=False)
_DifferentialAttention: Any = to_linen_class(layers.DifferentialAttention)
_Transformer: Any = to_linen_class(models.Transformer)
_MultiTokenAttentionFn: Any = to_linen_class(layers.MultiTokenAttentionFn)


class KeyQueryConvolution(_KeyQueryConvolution):
    """`mta_jax.layers.KeyQueryConvolution`."""


class HeadMixing(_HeadMixing):
    """`mta_jax.layers.HeadMixing`."""


class GroupNorm(_GroupNorm):
    """`mta_jax.layers.GroupNorm`."""


class MultiTokenAttention(_MultiTokenAttention):
    """`mta_jax.layers.MultiTokenAttention`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((2, 16, 32))
      >>> attention = MultiTokenAttention(num_heads=4, in_features=32)
      >>> variables = attention.init(jax.random.key(0), x)
      >>> attention.apply(variables, x).shape
      (2, 16, 32)
      >>> variables["params"]["pre_kq"]["kernel"].shape
      (4, 6, 11)
    """

    def __call__(self, *inputs: Array | None, nnx_method: Any = None, **options: Any) -> Array:
        """As of the NNX module, without `rngs`.

        Raises:
          ValueError: for `decode`: the cache is the NNX module's.
        """
        if options.get("decode") or self.kwargs.get("decode"):
            raise ValueError("decode: only the NNX module has a cache; use mta_jax.layers")
        options |= _dropout_of(self, nnx_method)
        return super().__call__(*inputs, nnx_method=nnx_method, **options)


class DifferentialAttention(_DifferentialAttention):
    """`mta_jax.layers.DifferentialAttention`."""

    def __call__(self, inputs: Array, *, nnx_method: Any = None, **options: Any) -> Array:
        """As of the NNX module, without `rngs`."""
        options |= _dropout_of(self, nnx_method)
        return super().__call__(inputs, nnx_method=nnx_method, **options)


class Transformer(_Transformer):
    """`mta_jax.models.Transformer`."""

    def __call__(self, tokens: Array, *, nnx_method: Any = None, **options: Any) -> Array:
        """As of the NNX module, without `rngs`."""
        options |= _dropout_of(self, nnx_method)
        return super().__call__(tokens, nnx_method=nnx_method, **options)


class MultiTokenAttentionFn(_MultiTokenAttentionFn):
    """`mta_jax.layers.MultiTokenAttentionFn`, for `nn.MultiHeadDotProductAttention`."""

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Any = None,
        mask: Array | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        force_fp32_for_softmax: bool = True,
        qk_attn_weights_einsum: Any = None,
        attn_weights_value_einsum: Any = None,
        is_causal: bool = False,
        **options: Any,
    ) -> Array:
        """As of the NNX module.

        Linen gives an attention function only the arguments that its signature names.
        """
        return super().__call__(
            query,
            key,
            value,
            bias=bias,
            mask=mask,
            broadcast_dropout=broadcast_dropout,
            dropout_rng=dropout_rng,
            dropout_rate=dropout_rate,
            deterministic=deterministic,
            dtype=dtype,
            precision=precision,
            module=module,
            force_fp32_for_softmax=force_fp32_for_softmax,
            qk_attn_weights_einsum=qk_attn_weights_einsum,
            attn_weights_value_einsum=attn_weights_value_einsum,
            is_causal=is_causal,
            **options,
        )


def _dropout_of(module: Any, nnx_method: Any) -> dict[str, Any]:
    """What a call of the module draws dropout from: Linen's stream, where there is one."""
    draws = nnx_method is None and module.has_rng("dropout")
    return {"rngs": module.make_rng("dropout")} if draws else {}
