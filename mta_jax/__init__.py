"""Multi-Token Attention in JAX: ops, Flax modules, models and training."""

__version__ = "0.1.0"
