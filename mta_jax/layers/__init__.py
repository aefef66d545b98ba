"""Flax NNX modules, each usable alone in another model."""

from mta_jax.layers.attention import MultiTokenAttention
from mta_jax.layers.attention_fn import MultiTokenAttentionFn
from mta_jax.layers.differential import DifferentialAttention
from mta_jax.layers.embedding import Embedding
from mta_jax.layers.group_norm import GroupNorm
from mta_jax.layers.mixing import HeadMixing, KeyQueryConvolution
from mta_jax.layers.mlp import SwiGLU

__all__ = [
    "DifferentialAttention",
    "Embedding",
    "GroupNorm",
    "HeadMixing",
    "KeyQueryConvolution",
    "MultiTokenAttention",
    "MultiTokenAttentionFn",
    "SwiGLU",
]
