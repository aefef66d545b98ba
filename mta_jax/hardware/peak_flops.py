"""Peak arithmetic of accelerators, to say what share of it a run uses."""

# Names are those of `jax.Device.device_kind`, for TPUs as in
# https://github.com/jax-ml/jax/blob/main/jax/_src/pallas/mosaic/tpu_info.py. A device is a chip,
# but half a chip on TPU7x. NVIDIA's figures are halves of those that it gives with sparsity.
_PEAKS: dict[str, float] = {
    # https://cloud.google.com/tpu/docs/v4
    "TPU v4": 275e12,
    # https://cloud.google.com/tpu/docs/v5e
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    # https://cloud.google.com/tpu/docs/v5p
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    # https://cloud.google.com/tpu/docs/v6e
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    # https://cloud.google.com/tpu/docs/tpu7x
    "TPU7x": 2307e12 / 2,
    # https://www.nvidia.com/en-us/data-center/a100/
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    # https://www.nvidia.com/en-us/data-center/h100/, SXM
    "NVIDIA H100 80GB HBM3": 989.5e12,
    # https://www.nvidia.com/en-us/data-center/h200/, SXM
    "NVIDIA H200": 989.5e12,
    # https://www.nvidia.com/en-us/data-center/hgx/, an eighth of HGX B200
    "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device at its best; None where that is not known.

    Args:
      device_kind: `device_kind` of a `jax.Device`. Any other spelling is not known; a
        slice of a GPU has another.

    Example:
      >>> peak_flops("TPU v5p")
      459000000000000.0
    """
    return _PEAKS.get(device_kind)
