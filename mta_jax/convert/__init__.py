"""Weights of other libraries as ours, and back: `python -m mta_jax.convert`."""
