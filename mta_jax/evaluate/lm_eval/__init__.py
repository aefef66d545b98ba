"""Benchmarks of lm-evaluation-harness: `python -m mta_jax.evaluate lm_eval`."""
