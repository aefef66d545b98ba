"""Multi-token attention as a pure function of arrays."""

from mta_jax.ops.multi_token_attention.api import (
    IMPLEMENTATIONS,
    Implementation,
    multi_token_attention,
    multi_token_attention_weights,
)
from mta_jax.ops.multi_token_attention.cached import (
    cached_multi_token_attention,
    num_past_queries,
)

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "cached_multi_token_attention",
    "multi_token_attention",
    "multi_token_attention_weights",
    "num_past_queries",
]
