"""What tests that compile for TPUs share; none of these is there."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# No cloud machine to ask about itself, and no device that a second process could take.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def tpus(generation: str) -> Sequence[jax.Device]:
    """The chips of a topology."""
    return topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[generation]
    ).devices


def one_tpu(generation: str) -> tuple[Any, NamedSharding]:
    """A chip of a generation, and the place of arrays that lie on it."""
    device = tpus(generation)[0]
    return device, NamedSharding(Mesh(np.array([device]), ("x",)), PartitionSpec())
