"""How long a call takes, and on what."""

import os
import platform
import statistics
import time
from collections.abc import Callable

import jax


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call that returns when its work is done, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def describe_machine() -> dict[str, str]:
    """Device and versions, without which a figure means nothing."""
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        kind = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return {"device": kind, "python": platform.python_version(), "jax": jax.__version__}
