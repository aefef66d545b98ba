"""Linen faces are their NNX modules."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import mta_jax.linen as faces
from mta_jax import layers, models
from mta_jax.models import ModelConfig, MTAConfig
from tests.layers.tools import drawn, normal, unchecked_types

X = normal(2, 5, 8, seed=1)
MAP = normal(2, 4, 5, 5, seed=2)
TOKENS = jnp.array([[1, 2, 3, 4], [4, 3, 2, 1]])
# Of the implementations, the one that compiles fastest.
SMALL = {"pre_kq_kernel_size": (2, 3), "post_kq_kernel_size": (2, 3), "implementation": "xla"}
MTA = MTAConfig(pre_kq_kernel_size=(2, 3), post_kq_kernel_size=(2, 3))
CONFIG = ModelConfig(
    vocab_size=7,
    embed_dim=8,
    num_layers=1,
    num_heads=2,
    mlp_dim=8,
    attention_dropout=0.5,
    attention_implementation="xla",
    mta=MTA,
)


@pytest.mark.parametrize(
    ("name", "arguments", "inputs"),
    [
        ("MultiTokenAttention", {"num_heads": 4, "in_features": 8, **SMALL}, X),
        ("DifferentialAttention", {"num_heads": 4, "in_features": 8}, X),
        ("KeyQueryConvolution", {"num_heads": 4, "kernel_size": (2, 3)}, MAP),
        ("HeadMixing", {"num_heads": 4, "group_size": 2}, MAP),
        ("GroupNorm", {"head_size": 5, "embed_dim": 8}, MAP),
        ("Transformer", {"config": CONFIG}, TOKENS),
    ],
)
def test_face_has_the_parameters_outputs_and_gradients_of_its_module(name, arguments, inputs):
    kind = getattr(models if name == "Transformer" else layers, name)
    module = drawn(lambda: kind(**arguments, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(module)
    params = nnx.to_pure_dict(state)
    face = getattr(faces, name)(**arguments)
    variables = jax.eval_shape(face.init, jax.random.key(0), inputs)
    assert set(variables) == {"params"}
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, params)

    def of_face(params):
        return (face.apply({"params": params}, inputs) ** 2).sum()

    def of_module(state):
        return (nnx.merge(graphdef, state)(inputs) ** 2).sum()

    value, gradient = jax.jit(jax.value_and_grad(of_face))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(of_module))(state)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    expected_gradient = nnx.to_pure_dict(expected_gradient)
    scale = max(abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-5 * scale),
        gradient,
        expected_gradient,
    )


@pytest.mark.parametrize(
    ("face", "inputs"),
    [
        (faces.MultiTokenAttention(num_heads=4, in_features=8, dropout_rate=0.5, **SMALL), X),
        (faces.Transformer(config=CONFIG), TOKENS),
    ],
)
def test_dropout_draws_from_the_dropout_stream(face, inputs):
    variables = face.init(jax.random.key(0), inputs, deterministic=True)

    @jax.jit
    def draw(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return face.apply(variables, inputs, deterministic=False, rngs=rngs)

    first = draw(1)
    np.testing.assert_array_equal(first, draw(1))
    assert (first != draw(2)).any()
    with pytest.raises(ValueError, match=re.escape("dropout_rate 0.5 in training: pass rngs")):
        face.apply(variables, inputs, deterministic=False)


def test_other_methods_are_reached_by_name():
    face = faces.MultiTokenAttention(num_heads=4, in_features=8, **SMALL)
    variables = face.init(jax.random.key(0), X)
    weights = face.apply(variables, X, nnx_method="attention_weights")
    assert weights.shape == (2, 4, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)


def linen_attention(**arguments) -> nn.MultiHeadDotProductAttention:
    attention_fn = faces.MultiTokenAttentionFn(num_heads=4, **SMALL)
    return nn.MultiHeadDotProductAttention(num_heads=4, attention_fn=attention_fn, **arguments)


@pytest.mark.parametrize(("constructor", "call"), [({"decode": True}, {}), ({}, {"decode": True})])
def test_a_face_has_no_cache_and_says_so(constructor, call):
    face = faces.MultiTokenAttention(num_heads=4, in_features=16, **constructor)
    with pytest.raises(ValueError, match="decode: only the NNX module has a cache"):
        face.init(jax.random.key(0), jnp.ones((1, 4, 16)), **call)


def test_identity_kernels_leave_linen_attention_as_it_is():
    mixed, plain = linen_attention(), nn.MultiHeadDotProductAttention(num_heads=4)
    mask = nn.make_causal_mask(jnp.ones((2, 5)))
    params = mixed.init(jax.random.key(0), X)["params"]
    own = {name: leaves for name, leaves in params.items() if name != "attention_fn"}
    out = mixed.apply({"params": params}, X, mask=mask)
    np.testing.assert_allclose(out, plain.apply({"params": own}, X, mask=mask), atol=1e-5)


def test_kernels_in_linen_attention_see_its_mask_and_get_gradients():
    mixed = linen_attention()
    mask = nn.make_causal_mask(jnp.ones((1, 5)))
    params = mixed.init(jax.random.key(0), X[:1])["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)

    def rows(params, x):
        return mixed.apply({"params": params}, x, mask=mask).sum((0, 2))

    gradients, by_input = jax.jit(jax.jacobian(rows, argnums=(0, 1)))(params, X[:1])
    reached = abs(by_input[:, 0]).max(-1) > 0
    np.testing.assert_array_equal(reached, np.tril(np.ones((5, 5), bool)))
    kernels = gradients["attention_fn"]
    assert set(kernels) == {"pre_kq", "pre_head", "post_kq", "post_head"}
    assert all(abs(g["kernel"]).max() > 1e-3 for g in kernels.values())


def test_linen_attention_sows_weights_and_drops_them():
    mixed = linen_attention(dropout_rate=0.5, broadcast_dropout=False)
    variables = mixed.init(jax.random.key(0), X, deterministic=True)
    rngs = {"dropout": jax.random.key(1)}
    out, sown = mixed.apply(
        variables, X, deterministic=False, sow_weights=True, rngs=rngs, mutable=["intermediates"]
    )
    (weights,) = sown["intermediates"]["attention_weights"]
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    assert (out != mixed.apply(variables, X, deterministic=True)).any()


def test_linen_attention_is_refused_what_the_kernels_cannot_do():
    mixed = linen_attention(decode=True)
    variables = mixed.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="1 query over 5 keys with a kernel of 2 queries"):
        mixed.apply(variables, X[:, :1], mutable=["cache"])
    dropping = linen_attention(dropout_rate=0.5)
    with unchecked_types(), pytest.raises(ValueError, match="broadcast_dropout True"):
        dropping.init(
            {"params": jax.random.key(0), "dropout": jax.random.key(0)}, X, deterministic=False
        )


def test_linen_gives_the_attention_function_every_argument_that_it_has():
    ours = inspect.signature(faces.MultiTokenAttentionFn.__call__).parameters
    theirs = inspect.signature(nn.dot_product_attention).parameters
    # What Linen's class never sets is not there, so that it cannot be ignored.
    assert set(theirs) - set(ours) == {"einsum_dot_general", "promote_dtype"} & set(theirs)
