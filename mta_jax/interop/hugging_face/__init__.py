"""Checkpoints of Hugging Face's Llama family: config.json and safetensors."""

from mta_jax.interop.hugging_face.checkpoint import describe, read, write

__all__ = ["describe", "read", "write"]
