import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import GroupNorm
from tests.layers.tools import drawn, normal, unchecked_types, value

X = normal(2, 3, 4, 6)


@jax.jit
def call(norm, x):
    return norm(x)


def module(scaling, **arguments) -> GroupNorm:
    return drawn(lambda: GroupNorm(6, scaling=scaling, embed_dim=24, **arguments, rngs=nnx.Rngs(0)))


def normalised(norm, x, epsilon=1e-5):
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon) * value(norm.norm.scale)


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_each_head_is_normalised_alone(size):
    # Inputs of 1e-3 have squares below epsilon, so that its value is seen.
    norm = module("none")
    np.testing.assert_allclose(call(norm, X * size), normalised(norm, X * size), atol=1e-5)


def test_epsilon_is_added_to_the_mean_square():
    norm = module("none", epsilon=0.5)
    np.testing.assert_allclose(call(norm, X), normalised(norm, X, epsilon=0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("layer_index", "factor"), [(0, 0.8), (1, 0.64449), (2, 0.52929), (6, 0.29918), (22, 0.20082)]
)
def test_depth_scaling_shrinks_with_depth(layer_index, factor):
    norm = module("depth", layer_index=layer_index)
    assert norm.factor == pytest.approx(factor, abs=1e-5)
    assert norm.gate is None
    np.testing.assert_allclose(call(norm, X), normalised(norm, X) * norm.factor, atol=1e-5)


def test_gate_is_one_number_per_head_and_sees_the_normalised_output():
    norm = module("gate", layer_index=5)
    assert norm.gate.kernel.shape == (6, 1)
    y = normalised(norm, X)
    gate = 1 / (1 + np.exp(-(y @ value(norm.gate.kernel) + value(norm.gate.bias))))
    np.testing.assert_allclose(call(norm, X), y * gate, atol=1e-5)
    # The size of the input is lost in the norm, so that it can't reach the gate.
    np.testing.assert_allclose(call(norm, 100 * X), y * gate, atol=1e-3)


def test_gate_starts_half_open_with_a_spread_of_the_models_width():
    norm = jax.jit(lambda: GroupNorm(512, embed_dim=100, rngs=nnx.Rngs(0)))()
    assert (value(norm.norm.scale) == 1).all()
    assert (value(norm.gate.bias) == 0).all()
    assert np.std(value(norm.gate.kernel)) == pytest.approx(0.1, rel=0.15)
    assert np.abs(value(norm.gate.kernel)).max() <= 0.3


@pytest.mark.parametrize("scaling", ["none", "depth", "gate"])
def test_bfloat16_is_near_float32(scaling):
    norm = module(scaling, dtype=jnp.bfloat16)
    out = call(norm, X.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    expected = call(module(scaling), X.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=0.02, atol=1e-3)


def test_unknown_scaling_is_refused():
    message = "group norm scaling 'sqrt': must be 'none', 'depth' or 'gate'"
    with unchecked_types(), pytest.raises(ValueError, match=message):
        GroupNorm(6, scaling="sqrt", embed_dim=24, rngs=nnx.Rngs(0))


def test_only_a_gate_needs_the_width_of_the_model():
    assert GroupNorm(6, scaling="depth", rngs=nnx.Rngs(0)).gate is None
    with pytest.raises(ValueError, match="'gate' without embed_dim"):
        GroupNorm(6, scaling="gate", rngs=nnx.Rngs(0))
