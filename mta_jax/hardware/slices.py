"""Groups of accelerators by name, to compile for."""

import jax

from mta_jax.errors import ConfigError
from mta_jax.hardware.chips import Chip
from mta_jax.hardware.gpus import H100, described_h100s
from mta_jax.hardware.topologies import TOPOLOGIES, described_tpus

CHIPS: dict[str, Chip] = {str(name): chip for name, chip in TOPOLOGIES.items()} | {"h100": H100}
"""What each is made of, by the first part of its name."""


def chip_of(slice_name: str) -> Chip:
    """What a group is made of.

    Args:
      slice_name: "v5p:4x4x4" or "h100:8", say.

    Raises:
      ConfigError: where there is no such chip.
    """
    name = slice_name.partition(":")[0].lower()
    if name not in CHIPS:
        known = ", ".join(chip.smallest_slice for chip in CHIPS.values())
        raise ConfigError(
            f"topology {slice_name}: must be one of {', '.join(CHIPS)} and a shape, such as {known}"
        )
    return CHIPS[name]


def described_devices(slice_name: str, num_slices: int = 1) -> list[jax.Device]:
    """The devices of a group that is described, not there.

    Shapes with a sharding over them compile for it
    (https://docs.jax.dev/en/latest/aot.html); nothing can run.

    Args:
      slice_name: "v5p:4x4x4" or "h100:8", say.
      num_slices: how many TPU slices, joined by a network.

    Raises:
      ConfigError: where there is no such group.
      UserError: where its compiler is not installed.
    """
    if chip_of(slice_name) is not H100:
        return described_tpus(slice_name.lower(), num_slices)
    if num_slices > 1:
        raise ConfigError(f"num_slices {num_slices}: only TPUs have slices; take h100:16, say")
    return described_h100s(slice_name)
