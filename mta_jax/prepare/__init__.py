"""`python -m mta_jax.prepare`: text in, shards of tokens out, which training reads."""
