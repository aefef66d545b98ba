import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import DifferentialAttention
from mta_jax.layers.group_norm import lambda_init
from tests.layers.tools import drawn, normal, value
from tests.ops import numpy_oracle

X = normal(2, 5, 8)


def module(num_kv_heads=None, **arguments) -> DifferentialAttention:
    return drawn(
        lambda: DifferentialAttention(
            4, 8, num_kv_heads=num_kv_heads, **arguments, rngs=nnx.Rngs(0)
        )
    )


@jax.jit
def call(attention, inputs, **where):
    return attention(inputs, **where)


def weight_of_second_map(attention, layer_index) -> float:
    def product(first, second):
        return math.exp(value(first) @ value(second))

    start = 0.8 - 0.6 * math.exp(-0.3 * layer_index)
    first = product(attention.lambda_q1, attention.lambda_k1)
    return first - product(attention.lambda_q2, attention.lambda_k2) + start


def by_formula(attention, layer_index, positions=None, segment_ids=None):
    x = np.asarray(X, np.float64)

    def project(projection):
        return np.einsum("btd,dnh->btnh", x, value(projection.kernel))

    q, k = project(attention.query_proj), project(attention.key_proj)
    if attention.rope_theta is not None:
        positions = np.tile(np.arange(5), (2, 1)) if positions is None else positions
        rope = {"theta": attention.rope_theta, "layout": attention.rope_layout}
        q = numpy_oracle.rope(q, positions, **rope)
        k = numpy_oracle.rope(k, positions, **rope)
    lam = weight_of_second_map(attention, layer_index)
    out = numpy_oracle.differential_attention(
        q, k, project(attention.value_proj), lam, segment_ids=segment_ids
    )
    out = out / np.sqrt(np.mean(out**2, axis=-1, keepdims=True) + 1e-5)
    out = out * value(attention.group_norm.norm.scale)
    out = out * (0.2 + 0.6 * math.exp(-0.3 * layer_index))  # 1 - lambda_init
    return np.einsum("btnh,nhd->btd", out, value(attention.out_proj.kernel))


SEGMENTS = np.array([[1, 1, 1, 2, 2], [1, 2, 2, 2, 2]])
POSITIONS = np.array([[0, 3, 4, 0, 2], [7, 0, 1, 5, 6]])


@pytest.mark.parametrize(
    ("arguments", "layer_index", "where"),
    [
        pytest.param({}, 0, {}, id="first_layer"),
        pytest.param(
            {"num_kv_heads": 2, "head_dim": 4, "rope_theta": 100.0, "rope_layout": "half_split"},
            3,
            {"positions": POSITIONS, "segment_ids": SEGMENTS},
            id="grouped_packed_fourth_layer",
        ),
        pytest.param({"head_dim": 6, "rope_theta": None}, 1, {}, id="wide_heads_no_rope"),
    ],
)
def test_module_is_its_formula(arguments, layer_index, where):
    attention = module(**arguments, layer_index=layer_index)
    expected = by_formula(attention, layer_index, **where)
    where = {name: jnp.asarray(array) for name, array in where.items()}
    np.testing.assert_allclose(call(attention, X, **where), expected, atol=2e-5)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_attention_weights_are_those_of_the_layer(num_kv_heads):
    attention = module(num_kv_heads=num_kv_heads)

    @jax.jit
    def through_weights(attention):
        weights = attention.attention_weights(X)
        values = attention.value_proj(X)
        values = jnp.repeat(values, 2 // values.shape[2], axis=2)
        out = jnp.einsum("BNTS,BSNH->BTNH", weights, values)
        return attention.out_proj(attention.group_norm(out))

    np.testing.assert_allclose(through_weights(attention), call(attention, X), atol=1e-5)


def test_pairs_share_values_of_twice_the_size():
    attention = nnx.eval_shape(lambda: DifferentialAttention(4, 8, rngs=nnx.Rngs(0)))
    assert attention.query_proj.kernel.shape == attention.key_proj.kernel.shape == (8, 4, 2)
    assert attention.value_proj.kernel.shape == (8, 2, 4)
    assert attention.out_proj.kernel.shape == (2, 4, 8)
    assert attention.group_norm.norm.scale.shape == (4,)
    assert attention.lambda_q1.shape == (2,)


def test_lambda_starts_near_its_value_for_the_layer():
    assert [lambda_init(layer) for layer in (0, 1, 2)] == pytest.approx([0.2, 0.3555091, 0.4707130])
    attention = jax.jit(lambda: DifferentialAttention(2, 64, layer_index=2, rngs=nnx.Rngs(0)))()
    vectors = [attention.lambda_q1, attention.lambda_k1, attention.lambda_q2, attention.lambda_k2]
    assert np.std([value(vector) for vector in vectors]) == pytest.approx(0.1, rel=0.3)
    assert weight_of_second_map(attention, 2) == pytest.approx(lambda_init(2), abs=0.3)


def test_dropout_is_of_training_only_and_needs_rngs():
    attention = module(dropout_rate=0.5)
    without = call(module(), X)
    with pytest.raises(ValueError, match=r"dropout_rate 0\.5 in training: pass rngs"):
        call(attention, X)
    training = jax.jit(lambda attention, key: attention(X, rngs=key))
    first = training(attention, jax.random.key(1))
    assert (first != without).any()
    assert (first != training(attention, jax.random.key(2))).any()
    attention.eval()
    np.testing.assert_array_equal(call(attention, X), without)


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(3, None), (4, 1), (6, 4)])
def test_heads_that_do_not_pair_are_refused(num_heads, num_kv_heads):
    shown = num_heads if num_kv_heads is None else num_kv_heads
    message = re.escape(f"num_heads {num_heads}, num_kv_heads {shown}: differential attention")
    with pytest.raises(ValueError, match=message):
        DifferentialAttention(num_heads, 12, num_kv_heads=num_kv_heads, rngs=nnx.Rngs(0))
