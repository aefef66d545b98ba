"""A training step gives the same gradients, whatever computes attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from mta_jax.training.loss import summed_losses
from tests.layers.tools import drawn

# More positions than a tile of the interpreted kernels has, in documents of 70 and 80.
LENGTH = 150
CONFIG = ModelConfig(
    vocab_size=32,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_dim=32,
    attention="mta",
    mta=MTAConfig(post_kq_kernel_size=None, pre_head_kernel_size=None, post_head_kernel_size=2),
)
EVERYTHING = dataclasses.replace(CONFIG, mta=MTAConfig())


def gradients(config, implementation):
    config = dataclasses.replace(config, attention_implementation=implementation)
    graphdef, params = nnx.split(drawn(lambda: Transformer(config, rngs=nnx.Rngs(0)), scale=0.2))
    rng = np.random.default_rng(1)
    tokens = jnp.asarray(rng.integers(0, 32, size=(2, LENGTH + 1)))
    positions = np.concatenate([np.arange(70), np.arange(80)])
    where = {
        "positions": jnp.asarray(np.tile(positions, (2, 1))),
        "segment_ids": jnp.asarray(np.tile(np.cumsum(positions == 0), (2, 1))),
    }

    def loss(params):
        model = nnx.merge(graphdef, params)
        features = model.features(tokens[:, :-1], **where)
        return summed_losses(model.logits, features, tokens[:, 1:], jnp.ones((2, LENGTH)))[0]

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


@pytest.mark.parametrize(
    ("config", "implementation"),
    [(CONFIG, "pallas_tpu"), (CONFIG, "xla_chunked"), (EVERYTHING, "xla_chunked")],
)
def test_every_gradient_of_a_step_agrees_with_xla(config, implementation):
    got, expected = gradients(config, implementation), gradients(config, "xla")
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    leaves = jax.tree.leaves_with_path(expected[1])
    assert len(leaves) > 20
    for (path, want), have in zip(leaves, jax.tree.leaves(got[1]), strict=True):
        size = np.sqrt(np.mean(np.square(want)))
        assert size > 0, path
        error = np.sqrt(np.mean(np.square(have - want)))
        # Both are sums of float32 over up to 300 tokens and through two layers.
        assert error <= 1e-5 * size, (jax.tree_util.keystr(path), error, size)
