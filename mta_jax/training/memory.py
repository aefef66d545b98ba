"""What a training state takes, and what there is."""

import os
from typing import Any

import jax

from mta_jax.errors import ConfigError
from mta_jax.training.state import Program


def num_bytes(tree: Any) -> int:
    """Size of a tree of arrays, or of their shapes and dtypes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def spell_bytes(size: int) -> str:
    """A size as people write it."""
    if size < 2**30:
        return f"{size / 2**20:.2f} MiB"
    return f"{size / 2**30:,.2f} GiB"


def check_memory(program: Program) -> None:
    """Makes sure that the training state fits, before anything is allocated.

    Raises:
      ConfigError: where parameters and optimiser alone are larger than the memory.
    """
    state = program.abstract_state
    needed, available = num_bytes(state), _device_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"model: parameters and optimiser take {spell_bytes(needed)}, and this device has "
            f"{spell_bytes(available)}; --dry_run shows the sizes"
        )


def _device_memory() -> int | None:
    """Bytes that the first device can hold, where that is known."""
    device = jax.devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
