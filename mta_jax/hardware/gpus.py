"""GPUs to compile for, none of which needs to be there.

Needs the plugin for CUDA 13 and its compiler, of the version of jax:
``pip install jax-cuda13-pjrt jax-cuda13-plugin nvidia-cuda-nvcc``.
"""

import importlib.util
import os
from pathlib import Path

import jax
from jax.experimental import topologies

from mta_jax.errors import ConfigError, UserError
from mta_jax.hardware.chips import Chip

H100 = Chip(
    smallest_slice="h100:1",
    device_kind="NVIDIA H100 80GB HBM3",
    # https://www.nvidia.com/en-us/data-center/h100/, SXM; of NVLink one direction.
    memory=80 * 2**30,
    bandwidth=3350e9,
    link_bandwidth=450e9,
)

_PER_NODE = 8

# An H100 in XLA's terms, a text proto of its GpuTargetConfigProto; sizes in bytes.
_DEVICE = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "shared_memory_per_core": 228 * 2**10,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "registers_per_core_limit": 2**16,
    "registers_per_block_limit": 2**16,
    "memory_bandwidth": round(H100.bandwidth),
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "device_memory_size": H100.memory,
}
_TARGET = "\n".join(
    [
        "gpu_device_info {",
        *(f"  {name}: {value}" for name, value in _DEVICE.items()),
        "  cuda_compute_capability { major: 9 }",
        "}",
        'platform_name: "CUDA"',
        "dnn_version_info { major: 9 minor: 12 }",
        f'device_description_str: "{H100.device_kind}"',
    ]
)


def described_h100s(name: str) -> list[jax.Device]:
    """H100 GPUs that are described, not there; nothing can run on them.

    Puts CUDA's compiler on the path of this process.

    Args:
      name: "h100:8", say: how many; above 8, whole machines of 8.

    Raises:
      ConfigError: where the number is none.
      UserError: where the plugin is not installed.
    """
    count = name.partition(":")[2]
    if not count.isdecimal() or not int(count) or (int(count) > 8 and int(count) % _PER_NODE):
        raise ConfigError(
            f"topology {name}: must be h100: and a number of GPUs up to 8, or a multiple of 8"
        )
    nvidia = importlib.util.find_spec("nvidia")
    if nvidia is None or importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            f"topology {name}: the CUDA compiler is missing: pip install jax-cuda13-pjrt "
            "jax-cuda13-plugin nvidia-cuda-nvcc, of the version of jax"
        )
    folders = [str(Path(root, "cu13", "bin")) for root in nvidia.submodule_search_locations or ()]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])
    per_node = min(int(count), _PER_NODE)
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name=name,
        target_config=_TARGET,
        topology=f"1x{int(count) // per_node}x{per_node}",
    )
    return list(described.devices)
