import atexit
import gc
import importlib.metadata
import os
import tempfile

import pytest

# All of this before jax is imported. Tests run on the CPU wherever they run. Programs
# here are small and many: compiling them takes most of the time, so it is kept short,
# and what several tests or processes compile is compiled once.
os.environ["JAX_PLATFORMS"] = "cpu"
_CACHE = tempfile.TemporaryDirectory(prefix="mta-jax-test-cache-")
atexit.register(_CACHE.cleanup)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
_FLAGS = ["--xla_backend_optimization_level=0"]
_VERSION = tuple(int(part) for part in importlib.metadata.version("jax").split(".")[:2])
if _VERSION < (0, 11):
    # Newer versions have no such flag and end the process over it.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
# Two workers whose threads share the same cores wait for each other: each has its own.
if hasattr(os, "sched_setaffinity") and (_WORKER := os.environ.get("PYTEST_XDIST_WORKER")):
    _CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CORES[int(_WORKER.removeprefix("gw")) % len(_CORES)]})
# Tracing makes millions of small objects that live on: looking through them less often
# takes an eighth off.
gc.set_threshold(100_000, 50, 50)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_a_module_are_forgotten():
    """Else a worker holds gigabytes of them at the end."""
    yield
    import jax  # after the environment is set

    jax.clear_caches()
