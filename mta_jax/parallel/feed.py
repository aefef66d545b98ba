"""Batches of rows from the memory of processes onto the mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from mta_jax.parallel.rules import spec_of
from mta_jax.typing import Array


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How an array [rows, T] of a batch is split."""
    return NamedSharding(mesh, spec_of(("batch", "length"), shape, mesh.shape))


def rows_of_process(mesh: Mesh, num_rows: int, length: int) -> tuple[int, int]:
    """First and end of the rows of a batch that this process's devices need.

    On a TPU slice they are often no neighbours: a machine's chips are, which lie in two or three
    dimensions. Then there are rows between them that other processes need.
    """
    sharding = batch_sharding(mesh, (num_rows, length))
    needed = np.zeros(num_rows, bool)
    for index in sharding.addressable_devices_indices_map((num_rows, length)).values():
        assert index is not None
        needed[index[0]] = True
    return int(np.argmax(needed)), num_rows - int(np.argmax(needed[::-1]))


def on_mesh(
    batch: Mapping[str, np.ndarray], mesh: Mesh, *, first_row: int = 0, num_rows: int | None = None
) -> Mapping[str, Any]:
    """The batch of all processes as arrays on the mesh.

    Args:
      batch: arrays [rows, T]: at least the rows that this process's devices need.
      mesh: the mesh. On one of a single device the batch stays as it is.
      first_row: number of the first of these rows in the whole batch.
      num_rows: rows of the whole batch; default: this is the whole.
    """
    if mesh.size == 1:
        return batch

    def place(x: np.ndarray) -> Array:
        shape = (len(x) if num_rows is None else num_rows, *x.shape[1:])

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape[0])
            return x[(slice(start - first_row, stop - first_row), *index[1:])]

        return jax.make_array_from_callback(shape, batch_sharding(mesh, shape), part)

    return {name: place(x) for name, x in batch.items()}


def whole(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A batch from the mesh, all of its rows in the memory of every process."""
    if all(isinstance(x, np.ndarray) for x in batch.values()):
        return dict(batch)
    return {
        name: np.asarray(multihost_utils.process_allgather(x, tiled=True))
        for name, x in batch.items()
    }
