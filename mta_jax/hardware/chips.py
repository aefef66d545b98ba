"""What every accelerator has."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One device. Bandwidths are in bytes per second."""

    smallest_slice: str
    """Name of the smallest group of them."""

    device_kind: str
    """As JAX names it."""

    memory: int
    """In bytes."""

    bandwidth: float
    """Of its memory."""

    link_bandwidth: float
    """Of all its links to others together, in one direction."""
