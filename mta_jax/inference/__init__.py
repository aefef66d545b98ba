"""Writing with language models: a decoder over a cache, sampling, and scores of what is written."""

from mta_jax.inference.decoder import (
    Continuation,
    Decoder,
    Limits,
    rows_without_padding,
)
from mta_jax.inference.sampling import Sampling
from mta_jax.inference.scoring import Score, score

__all__ = [
    "Continuation",
    "Decoder",
    "Limits",
    "Sampling",
    "Score",
    "rows_without_padding",
    "score",
]
