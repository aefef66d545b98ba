"""Multi-token attention as a pure function of arrays."""

from mta_jax.ops.multi_token_attention.api import (
    IMPLEMENTATIONS,
    Implementation,
    multi_token_attention,
    multi_token_attention_weights,
)

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "multi_token_attention",
    "multi_token_attention_weights",
]
