import os
import tempfile

# Before jax is imported: tests run on the CPU wherever they run, and a program that
# several tests or processes compile is compiled once.
os.environ["JAX_PLATFORMS"] = "cpu"
_CACHE = tempfile.TemporaryDirectory(prefix="mta-jax-test-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
