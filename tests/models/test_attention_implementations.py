"""A training step gives the same gradients, whatever computes attention."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.models import ModelConfig, MTAConfig, Transformer, model_preset
from mta_jax.ops.multi_token_attention.api import IMPLEMENTATIONS
from mta_jax.ops.target import targeting
from mta_jax.training.loss import summed_losses
from tests.layers.tools import drawn
from tests.ops.watching import watched

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
    [
        (CONFIG, "pallas_tpu"),
        (CONFIG, "xla_chunked"),
        # Layers with all four steps, and layers that mix heads alone.
        pytest.param(EVERYTHING, "pallas_tpu", marks=pytest.mark.once),
        (EVERYTHING, "xla_chunked"),
    ],
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


@pytest.mark.parametrize("kind", ["transformer", "mta", "talking_heads"])
@pytest.mark.parametrize(
    ("size", "device_kind"),
    [
        *(("880m", device_kind) for device_kind in ("TPU v5 lite", "TPU v5p", "TPU v6 lite")),
        # On the chip with the least memory.
        *(pytest.param(size, "TPU v5p", marks=pytest.mark.slow) for size in ("300m", "550m", "1b")),
    ],
)
def test_presets_take_fused_kernels_on_every_tpu(monkeypatch, size, kind, device_kind):
    """Of packed rows, in the dtype they train in; nothing falls back to XLA."""
    names = []
    for name, attend in watched(names).items():
        monkeypatch.setitem(IMPLEMENTATIONS, name, attend)
    config = dataclasses.replace(model_preset(size, kind), scan_layers=True)
    device = types.SimpleNamespace(platform="tpu", device_kind=device_kind)
    tokens = jax.ShapeDtypeStruct((1, 2048), jnp.int32)

    def features(tokens):
        model = Transformer(config, rngs=nnx.Rngs(0))
        return model.features(tokens, positions=tokens, segment_ids=tokens)

    with targeting(device):
        jax.eval_shape(features, tokens)
    assert set(names) == {"splash" if kind == "transformer" else "pallas_tpu"}


@pytest.mark.parametrize(
    ("config", "forward"),
    [
        (
            dataclasses.replace(CONFIG, attention="transformer", num_kv_heads=4),
            "splash_mha_fwd_residuals",
        ),
        (CONFIG, "mta_forward"),
        (dataclasses.replace(CONFIG, attention="talking_heads"), "mta_mixed_forward"),
        (EVERYTHING, "mta_full_forward"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize(("remat", "runs"), [("full", 2), ("attention", 1), ("dots", 1)])
def test_attention_that_is_kept_is_not_computed_again(config, forward, remat, runs):
    config = dataclasses.replace(config, num_layers=1, remat=remat, dtype="bfloat16")
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)

    def loss(params, tokens):
        return nnx.merge(graphdef, params)(tokens).sum()

    device = types.SimpleNamespace(platform="tpu", device_kind="TPU v5p")
    with targeting(device):
        model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(model)
        program = jax.make_jaxpr(jax.grad(loss))(params, tokens)
    assert used_kernels(program.jaxpr).count(forward) == runs


def used_kernels(jaxpr):
    """Names of the Pallas kernels whose results anything reads: the compiler drops others."""
    names = []
    read = {id(x) for equation in jaxpr.eqns for x in equation.invars}
    read |= {id(x) for x in jaxpr.outvars}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            if any(id(x) in read for x in equation.outvars):
                names.append(equation.params["name"])
            continue
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(part):
                names += used_kernels(getattr(part, "jaxpr", part))
    return names


def is_jaxpr(x):
    return hasattr(x, "eqns")
