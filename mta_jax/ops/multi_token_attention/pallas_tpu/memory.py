"""The memory on the chip, VMEM, by TPU generation."""

LEAST_VMEM_BYTES = 32 * 2**20
"""What every kernel may ask for; every TPU since v5e has at least twice that."""

_BY_DEVICE_KIND = {
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), 112 * 2**20),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), 112 * 2**20),
    **dict.fromkeys(("TPU v5", "TPU v5p"), 56 * 2**20),
}
"""v5e and v6e have 128 MiB on a chip, v5p 64."""


def vmem_limit(device_kind: str) -> int:
    """Bytes that a kernel may ask for at most, on a kind of device in JAX's words.

    Raises:
      NotImplementedError: for a TPU that the kernels have never been compiled for.
    """
    if device_kind not in _BY_DEVICE_KIND:
        raise NotImplementedError(
            f"device {device_kind!r}: compiled for v5e, v5p and v6e only; 'xla_chunked' runs "
            "anywhere"
        )
    return _BY_DEVICE_KIND[device_kind]


def vmem_request(needed: int, limit: int) -> int:
    """Bytes to ask for: with more than it needs, a step of the grid takes longer."""
    return min(limit, max(needed, LEAST_VMEM_BYTES))
