"""Text from trained language models: `python -m mta_jax.generate`, or `load_model`."""

from mta_jax.generate.language_model import LanguageModel, Text, load_model
from mta_jax.inference import Limits, Sampling

__all__ = ["LanguageModel", "Limits", "Sampling", "Text", "load_model"]
