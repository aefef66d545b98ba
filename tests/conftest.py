import os

# Before jax is imported: tests run on the CPU wherever they run.
os.environ["JAX_PLATFORMS"] = "cpu"
