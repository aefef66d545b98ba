"""TPUs to compile for, none of which needs to be there."""

import dataclasses
import importlib.util
from typing import Literal

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from mta_jax.errors import ConfigError, UserError
from mta_jax.hardware.chips import Chip

TopologyName = Literal["v5e", "v5p", "v6e"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology(Chip):
    """One TPU chip of a generation.

    Sizes and bandwidths are those of https://cloud.google.com/tpu/docs/v5e, v5p and v6e; clocks
    follow from the peak given there and the products of a cycle (4 units of
    128 x 128 multiply-adds a core, 16 of them on v6e).
    """

    clock: float
    """In Hz."""

    cores: int
    """Of a chip, which a program shares out among them."""


TOPOLOGIES: dict[TopologyName, Topology] = {
    "v5e": Topology(
        smallest_slice="v5e:2x2",
        device_kind="TPU v5 lite",
        memory=16 * 2**30,
        bandwidth=819e9,
        link_bandwidth=1600e9 / 8,
        clock=1.5e9,
        cores=1,
    ),
    "v5p": Topology(
        smallest_slice="v5p:2x2x1",
        device_kind="TPU v5",
        memory=95 * 2**30,
        bandwidth=2765e9,
        link_bandwidth=4800e9 / 8,
        clock=1.75e9,
        cores=2,
    ),
    "v6e": Topology(
        smallest_slice="v6e:2x2",
        device_kind="TPU v6 lite",
        memory=32 * 2**30,
        bandwidth=1640e9,
        link_bandwidth=3584e9 / 8,
        clock=1.75e9,
        cores=1,
    ),
}
"""Every topology by name."""


def check_libtpu() -> None:
    """Makes sure that there is a TPU compiler.

    Raises:
      UserError: if libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the TPU compiler, is missing: pip install 'mta-jax[tpu]'")


def described_tpus(slice_name: str, num_slices: int) -> list[jax.Device]:
    """The chips of slices that are described, not there.

    Args:
      slice_name: "v5p:4x4x4", say: a generation and a shape.
      num_slices: how many of them, joined by a network.

    Raises:
      ConfigError: where libtpu does not know the slice.
      UserError: where libtpu is not installed.
    """
    check_libtpu()
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=slice_name, num_slices=num_slices
        )
        return list(described.devices)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        generation = slice_name.partition(":")[0]
        smallest = [chip.smallest_slice for name, chip in TOPOLOGIES.items() if name == generation]
        raise ConfigError(
            f"topology {slice_name}: libtpu refuses it ({reason}); {', '.join(smallest)} is the "
            "smallest of its kind, and larger ones have as many dimensions"
        ) from None


def abstract_mesh(name: TopologyName) -> Mesh:
    """A mesh of one TPU core that is described, not there.

    Args:
      name: generation of the TPU.

    Returns:
      A mesh with one axis, "device", of size 1.

    Raises:
      UserError: if libtpu is not installed, or does not know the topology.
    """
    devices = described_tpus(TOPOLOGIES[name].smallest_slice, num_slices=1)
    return Mesh(np.array(devices[:1]), ("device",))
