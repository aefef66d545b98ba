"""Writing with language models: a decoder over a cache, and sampling."""

from mta_jax.inference.decoder import (
    Continuation,
    Decoder,
    Limits,
    rows_without_padding,
)
from mta_jax.inference.sampling import Sampling

__all__ = ["Continuation", "Decoder", "Limits", "Sampling", "rows_without_padding"]
