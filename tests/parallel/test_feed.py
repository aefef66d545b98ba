import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from mta_jax.parallel import feed
from mta_jax.parallel.mesh import AXES


class Sharding:
    """Where a process's devices are not neighbours in the mesh."""

    def __init__(self, parts):
        self.parts = parts

    def addressable_devices_indices_map(self, shape):
        return dict(enumerate((part, slice(None)) for part in self.parts))


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        ([slice(0, 2), slice(2, 4)], (0, 4)),
        ([slice(None)], (0, 8)),
        # As on v5p:4x4x4, where a machine has two by two chips.
        ([slice(1, 2), slice(5, 6)], (1, 6)),
    ],
)
def test_rows_of_a_process_reach_from_its_first_to_its_last(parts, rows, monkeypatch):
    monkeypatch.setattr(feed, "batch_sharding", lambda mesh, shape: Sharding(parts))
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    assert feed.rows_of_process(mesh, 8, 16) == rows
