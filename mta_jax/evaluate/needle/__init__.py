"""Needles in a haystack (the paper's section 4.4): `python -m mta_jax.evaluate needle`."""
