"""The fused TPU kernels compile for real TPUs, none of which is needed.

Interpreting a kernel shows what it computes; this shows that the TPU compiler takes it,
its layouts and the memory it asks for.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu import pallas_tpu

# The TPU compiler, which comes with the extra `tpu`.
pytest.importorskip("libtpu")
pytestmark = pytest.mark.aot

# No cloud machine to ask about itself, and no device that a second process could take.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def compile_gradients(
    generation,
    *,
    length,
    head_size,
    num_kv_heads=16,
    dtype=jnp.bfloat16,
    packed=False,
    group_size=None,
):
    """Compiles output and gradients of 16 heads with 6 x 11 kernels for one TPU."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation])
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arrays = {
        "query": array(dtype, 1, length, 16, head_size),
        "key": array(dtype, 1, length, num_kv_heads, head_size),
        "value": array(dtype, 1, length, num_kv_heads, head_size),
        "pre_kq_kernel": array(jnp.float32, 16, 6, 11),
    }
    if group_size:
        shape = (16 // group_size, group_size, group_size)
        arrays["post_head_kernel"] = array(jnp.float32, *shape)
    segment_ids = array(jnp.int32, 1, length) if packed else None

    def run(arrays, segment_ids, cotangent):
        def attend(arrays):
            arguments = Arguments(**arrays, segment_ids=segment_ids)
            return pallas_tpu(arguments, interpret=False)[0]

        out, pullback = jax.vjp(attend, arrays)
        return out, pullback(cotangent)

    return jax.jit(run).lower(arrays, segment_ids, arrays["query"]).compile()


@pytest.mark.parametrize("length", [4096])
@pytest.mark.parametrize("head_size", [64, 96, 128])
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_compiles(generation, head_size, length):
    compiled = compile_gradients(generation, length=length, head_size=head_size)
    # Nothing of the size of the logits is in main memory.
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * length * length * 4


@pytest.mark.parametrize(
    "options",
    [
        {"packed": True, "num_kv_heads": 4},
        {"packed": True, "group_size": 2},
        {"dtype": jnp.float32},
        {"head_size": 256},
    ],
    ids=str,
)
def test_options_compile(options):
    compile_gradients("v6e", **({"length": 1024, "head_size": 128} | options))
