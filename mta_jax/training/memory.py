"""What a training state takes, and what there is."""

import os
from typing import Any

import jax
from jax.sharding import Mesh

from mta_jax.errors import ConfigError
from mta_jax.parallel.rules import state_shardings
from mta_jax.training.state import Program


def num_bytes(tree: Any) -> int:
    """Size of a tree of arrays, or of their shapes and dtypes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def spell_bytes(size: int) -> str:
    """A size as people write it."""
    if size < 2**30:
        return f"{size / 2**20:.2f} MiB"
    return f"{size / 2**30:,.2f} GiB"


def bytes_of_device(tree: Any, mesh: Mesh) -> int:
    """What one device of a mesh holds of a training state, given as shapes and dtypes."""
    parts = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype),
        tree,
        state_shardings(tree, mesh),
    )
    return num_bytes(parts)


def check_memory(program: Program, mesh: Mesh) -> None:
    """Makes sure that the training state fits, before anything is allocated.

    Raises:
      ConfigError: where parameters and optimiser alone are larger than the memory.
    """
    needed, available = bytes_of_device(program.abstract_state, mesh), _device_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"model: parameters and optimiser take {spell_bytes(needed)} of each device, which has "
            f"{spell_bytes(available)}; --dry_run shows the sizes, and mesh.fsdp over more devices "
            "divides them"
        )


def _device_memory() -> int | None:
    """Bytes that the first device can hold, where that is known."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
