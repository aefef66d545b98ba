"""Measurements that anybody can repeat: `python -m mta_jax.benchmark --help`."""
