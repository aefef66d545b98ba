"""Attention in row blocks compiles for a GPU, none of which is needed.

Runs where the plugin for CUDA 13 and its compiler are installed:
``pip install jax-cuda13-pjrt jax-cuda13-plugin nvidia-cuda-nvcc``.
"""

import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.target import targeting

pytest.importorskip("jax_cuda13_plugin", reason="needs the CUDA compiler, see above")
pytestmark = pytest.mark.aot

# An H100 in XLA's terms (a text proto of its GpuTargetConfigProto); sizes in bytes.
DEVICE = {
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
    "memory_bandwidth": 3_350_000_000_000,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "device_memory_size": 80 * 2**30,
}
TARGET = "\n".join(
    [
        "gpu_device_info {",
        *(f"  {name}: {value}" for name, value in DEVICE.items()),
        "  cuda_compute_capability { major: 9 }",
        "}",
        'platform_name: "CUDA"',
        "dnn_version_info { major: 9 minor: 12 }",
        'device_description_str: "NVIDIA H100 80GB HBM3"',
    ]
)


@pytest.fixture(scope="module")
def device():
    """An H100 that is described, not there."""
    nvidia = importlib.util.find_spec("nvidia")
    assert nvidia is not None
    folders = [str(Path(root, "cu13", "bin")) for root in nvidia.submodule_search_locations]
    before = os.environ["PATH"]
    os.environ["PATH"] = os.pathsep.join([*folders, before])
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=TARGET, topology="1x1x1"
    )
    yield topology.devices[0]
    os.environ["PATH"] = before


@pytest.mark.parametrize(
    "kernels",
    [
        (),
        ("pre_head_kernel", "post_head_kernel"),
        ("pre_kq_kernel", "pre_head_kernel", "post_kq_kernel", "post_head_kernel"),
    ],
)
def test_compiles_in_linear_memory(device, kernels):
    sharding = NamedSharding(Mesh(np.array([device]), ("x",)), PartitionSpec())

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def temp_bytes(length):
        names = ("query", "key", "value")
        arrays = {name: array(jnp.bfloat16, 1, length, 4, 64) for name in names}
        for name in kernels:
            arrays[name] = array(jnp.float32, *((1, 4, 4) if "head" in name else (4, 2, 3)))

        def run(arrays, cotangent):
            out, pullback = jax.vjp(lambda arrays: multi_token_attention(**arrays), arrays)
            return out, pullback(cotangent)

        with targeting(device):
            lowered = jax.jit(run).lower(arrays, arrays["query"])
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temp_bytes(2048) <= 2.2 * temp_bytes(1024)
