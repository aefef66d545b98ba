import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.differential_attention import differential_attention
from mta_jax.ops.dropout import dropout
from mta_jax.ops.multi_token_attention import (
    multi_token_attention,
    multi_token_attention_weights,
)
from tests.ops import numpy_oracle
from tests.ops.yardsticks import assert_as_accurate_as_plain, out_and_gradients

LENGTH = 6
LAM = 0.3


def draw(num_heads=4, num_kv_heads=4, dtype=np.float64):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, LENGTH, num_heads, 4))
    key = rng.normal(size=(2, LENGTH, num_kv_heads, 4))
    value = rng.normal(size=(2, LENGTH, num_kv_heads // 2, 8))
    return [jnp.asarray(x, dtype) for x in (query, key, value)]


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "options"),
    [
        (4, 4, {}),
        (8, 4, {}),
        (4, 2, {"is_causal": False}),
        (4, 4, {"query_offset": -2}),
        (4, 4, {"segment_ids": np.array([[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]])}),
        (4, 4, {"mask": np.arange(LENGTH)[None, None, None] != 1}),
    ],
    ids=["plain", "grouped", "bidirectional", "offset", "segments", "mask"],
)
def test_equals_the_loops(num_heads, num_kv_heads, options, implementation):
    with jax.enable_x64(True):
        arrays = draw(num_heads, num_kv_heads)
        expected = numpy_oracle.differential_attention(*map(np.asarray, arrays), LAM, **options)
        attend = functools.partial(differential_attention, implementation=implementation)
        out = jax.jit(attend, static_argnames=("is_causal", "query_offset"))(
            *arrays, jnp.asarray(LAM), **options
        )
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_lam_zero_is_attention_of_the_even_heads():
    with jax.enable_x64(True):
        query, key, value = draw()
        out = jax.jit(differential_attention)(query, key, value, jnp.asarray(0.0))
        even = jax.jit(multi_token_attention)(query[:, :, ::2], key[:, :, ::2], value)
    np.testing.assert_allclose(out, even, rtol=0, atol=1e-12)


def test_dropout_is_dropout_of_the_difference():
    rate, dropout_key = 0.4, jax.random.key(0)

    @jax.jit
    def run(query, key, value):
        out = differential_attention(
            query,
            key,
            value,
            jnp.asarray(LAM),
            dropout_rate=rate,
            dropout_key=dropout_key,
            # The one that draws for the whole map at once.
            implementation="xla",
        )
        first, second = (
            multi_token_attention_weights(query[:, :, which::2], key[:, :, which::2])
            for which in (0, 1)
        )
        difference = first - LAM * second
        dropped = dropout(difference, rate, dropout_key)
        return out, *(jnp.einsum("BNTS,BSNH->BTNH", x, value) for x in (dropped, difference))

    with jax.enable_x64(True):
        out, expected, undropped = run(*draw())
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
    assert not np.allclose(out, undropped)


@pytest.mark.parametrize("implementation", ["reference", "xla", "xla_chunked"])
def test_dropout_drops_the_same_of_both_maps(implementation):
    query, key, value = draw(dtype=np.float32)
    twice = [jnp.repeat(x[:, :, ::2], 2, axis=2) for x in (query, key)]
    options = {"dropout_rate": 0.4, "dropout_key": jax.random.key(0)}
    attend = functools.partial(differential_attention, implementation=implementation, **options)
    assert not np.asarray(attend(*twice, value, jnp.float32(1.0))).any()
    assert np.asarray(attend(*twice, value, jnp.float32(0.0))).any()


def test_lam_gets_the_gradient_of_the_subtracted_map():
    with jax.enable_x64(True):
        query, key, value = draw()
        jacobian = jax.jit(jax.jacobian(differential_attention, argnums=3))
        gradient = jacobian(query, key, value, jnp.asarray(LAM))
        odd = jax.jit(multi_token_attention)(query[:, :, 1::2], key[:, :, 1::2], value)
    np.testing.assert_allclose(gradient, -odd, rtol=0, atol=1e-12)


def test_output_has_the_dtype_of_value():
    arrays = draw(dtype=jnp.bfloat16)
    out = jax.eval_shape(differential_attention, *arrays, jnp.float32(LAM))
    assert out.dtype == jnp.bfloat16


def test_bfloat16_is_as_accurate_as_the_difference_of_the_maps():
    """Held to the suite's rule: the plain path subtracts the maps, then rounds."""
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 63, 4, 16), "key": (2, 63, 4, 16), "value": (2, 63, 2, 32)}
    arrays = {n: jnp.asarray(rng.normal(size=s), jnp.bfloat16) for n, s in shapes.items()}
    arrays["lam"] = jnp.float32(LAM)
    cotangent = jnp.asarray(rng.normal(size=shapes["value"]), jnp.bfloat16)

    def plain(arrays):
        query, key = arrays["query"], arrays["key"]
        first, second = (
            multi_token_attention_weights(query[:, :, which::2], key[:, :, which::2])
            for which in (0, 1)
        )
        weights = (first - arrays["lam"] * second).astype(jnp.bfloat16)
        return jnp.einsum("BNTS,BSNH->BTNH", weights, arrays["value"])

    def run(attend, arrays, cotangent):
        return jax.jit(functools.partial(out_and_gradients, attend))(arrays, cotangent)

    with jax.enable_x64(True):
        exact = run(
            lambda arrays: differential_attention(**arrays),
            jax.tree.map(lambda x: x.astype(jnp.float64), arrays),
            cotangent.astype(jnp.float64),
        )
    got = run(lambda arrays: differential_attention(**arrays), arrays, cotangent)
    assert_as_accurate_as_plain(got, run(plain, arrays, cotangent), jax.device_get(exact))


@pytest.mark.parametrize("num_heads", [(3, 4), (4, 3)])
def test_odd_head_numbers_are_refused(num_heads):
    arrays = draw(*num_heads, dtype=np.float32)
    message = f"{num_heads[0]} query and {num_heads[1]} key heads: .* even number of both"
    with pytest.raises(ValueError, match=message):
        differential_attention(*arrays, jnp.float32(LAM))
