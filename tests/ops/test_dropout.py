import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.dropout import dropout


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_zeroes_at_the_rate_and_rescales_the_rest(make_key):
    rate, count = 0.25, 10_000
    x = jnp.arange(1.0, count + 1)
    out = np.asarray(dropout(x, rate, make_key(0)))
    kept = out != 0
    np.testing.assert_array_equal(out[kept], np.asarray(x / (1 - rate))[kept])
    assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / count) ** 0.5


def test_keys_decide():
    x = jnp.ones(100)
    first, again, other = (dropout(x, 0.5, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_zero_rate_keeps_everything():
    x = jnp.arange(100.0)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_dropped_elements_get_zero_gradient():
    key = jax.random.key(0)
    out, pullback = jax.vjp(lambda x: dropout(x, 0.5, key), jnp.ones(100))
    (gradient,) = pullback(jnp.ones(100))
    np.testing.assert_array_equal(gradient, out)
