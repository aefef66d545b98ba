"""Writing compiles for a TPU, none of which is needed."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mta_jax.inference import decoding
from mta_jax.models import ModelConfig, MTAConfig, Transformer
from mta_jax.ops.target import targeting
from tests.layers.tools import unchecked_types
from tests.tpu_compiler import one_tpu

# The TPU compiler, which comes with the extra `tpu`.
pytest.importorskip("libtpu")
pytestmark = pytest.mark.aot

CONFIG = ModelConfig(
    vocab_size=512,
    num_layers=2,
    embed_dim=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=128,
    mta=MTAConfig(kq_layers=[1]),
    dtype="bfloat16",
)
CAPACITY = 512


def test_the_loop_over_tokens_keeps_one_cache_in_memory():
    device, sharding = one_tpu("v5e")
    model = nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)

    def begun():
        cache = nnx.merge(graphdef, params_of_zeros(params)).empty_cache(2, CAPACITY)
        keys = jax.random.split(jax.random.key(0), 2)
        logits = jnp.zeros((2, CONFIG.vocab_size))
        return decoding.begin(logits, cache, keys, None, {"temperature": 1.0}, num_tokens=512)

    # Shapes stand for arrays.
    with unchecked_types(), targeting(device):
        arrays = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            (params, jax.eval_shape(begun)),
        )
        lowered = decoding.write.lower(
            graphdef, *arrays, {"temperature": 1.0}, 8, 0, block=16, num_tokens=512
        )
    memory = lowered.compile().memory_analysis()
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays[1].cache.layers))
    assert memory.alias_size_in_bytes >= cache
    assert memory.temp_size_in_bytes < cache


def params_of_zeros(params):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
