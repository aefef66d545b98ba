"""Complete models."""

from mta_jax.models.config import AttentionKind, ModelConfig, MTAConfig
from mta_jax.models.presets import model_preset
from mta_jax.models.transformer import Transformer

__all__ = ["AttentionKind", "MTAConfig", "ModelConfig", "Transformer", "model_preset"]
