"""One report on runs and on what evaluations found: `python -m mta_jax.evaluate report`."""
