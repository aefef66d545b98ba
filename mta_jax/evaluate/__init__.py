"""Evaluations of trained models: `python -m mta_jax.evaluate TASK`."""
