"""TPUs to compile for, none of which needs to be there."""

import importlib.util
from typing import Literal

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from mta_jax.errors import UserError

TopologyName = Literal["v5e", "v5p", "v6e"]

# The smallest slice of each that libtpu describes.
_SLICES: dict[str, str] = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}

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
        topology = topologies.get_topology_desc(platform="tpu", topology_name=_SLICES[name])
    except Exception as error:
        raise UserError(f"topology {name}: libtpu refuses it ({error})") from error
    return Mesh(np.array(topology.devices[:1]), ("device",))
