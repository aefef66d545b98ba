"""Attention in row blocks compiles for a GPU, none of which is needed.

Runs where the plugin for CUDA 13 and its compiler are installed:
``pip install jax-cuda13-pjrt jax-cuda13-plugin nvidia-cuda-nvcc``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mta_jax.hardware.gpus import described_h100s
from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.target import targeting

pytest.importorskip("jax_cuda13_plugin", reason="needs the CUDA compiler, see above")
pytestmark = pytest.mark.aot


@pytest.fixture(scope="module")
def device():
    """An H100 that is described, not there."""
    return described_h100s("h100:1")[0]


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
