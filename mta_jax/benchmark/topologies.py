"""TPUs to compile for, none of which needs to be there."""

import dataclasses
import importlib.util
from typing import Literal

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from mta_jax.errors import UserError

TopologyName = Literal["v5e", "v5p", "v6e"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """One chip of a generation.

    Bandwidths are those of https://cloud.google.com/tpu/docs/system-architecture-tpu-vm;
    clocks follow from the peak given there and the products of a cycle (4 units of
    128 x 128 multiply-adds a core, 16 of them on v6e).
    """

    smallest_slice: str
    """As libtpu names it."""

    device_kind: str
    """As JAX names it."""

    bandwidth: float
    """Of the chip's memory, in bytes per second."""

    clock: float
    """In Hz."""

    cores: int
    """Of a chip, which a program shares out among them."""


TOPOLOGIES: dict[TopologyName, Topology] = {
    "v5e": Topology(
        smallest_slice="v5e:2x2",
        device_kind="TPU v5 lite",
        bandwidth=819e9,
        clock=1.5e9,
        cores=1,
    ),
    "v5p": Topology(
        smallest_slice="v5p:2x2x1",
        device_kind="TPU v5",
        bandwidth=2765e9,
        clock=1.75e9,
        cores=2,
    ),
    "v6e": Topology(
        smallest_slice="v6e:2x2",
        device_kind="TPU v6 lite",
        bandwidth=1640e9,
        clock=1.75e9,
        cores=1,
    ),
}
"""Every topology by name."""

ENVIRONMENT = {
    # The device of the process itself; libtpu is used as a compiler only.
    "JAX_PLATFORMS": "cpu",
    # Otherwise libtpu waits for the metadata server of a TPU machine.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Otherwise it refuses a second process, which would be right if it used a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Otherwise it leaves log files behind.
    "TPU_LOG_DIR": "disabled",
}
"""What a process that compiles ahead of time needs, set before it imports jax."""


def check_libtpu() -> None:
    """Makes sure that there is a TPU compiler.

    Raises:
      UserError: if libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the TPU compiler, is missing: pip install 'mta-jax[tpu]'")


def abstract_mesh(name: TopologyName) -> Mesh:
    """A mesh of one TPU core that is described, not there.

    Shapes with a `NamedSharding` over it compile for that TPU
    (https://docs.jax.dev/en/latest/aot.html); nothing can run.

    Args:
      name: generation of the TPU.

    Returns:
      A mesh with one axis, "device", of size 1.

    Raises:
      UserError: if libtpu is not installed, or does not know the topology.
    """
    check_libtpu()
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=TOPOLOGIES[name].smallest_slice
        )
    except Exception as error:
        raise UserError(f"topology {name}: libtpu refuses it ({error})") from error
    return Mesh(np.array(topology.devices[:1]), ("device",))
