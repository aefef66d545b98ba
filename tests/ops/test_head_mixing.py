import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.head_mixing import head_mixing
from tests.ops import numpy_oracle


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("num_groups", "group_size"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_equals_the_loops(num_groups, group_size):
    logits, kernel = normal(2, 6, 3, 4), normal(num_groups, group_size, group_size, seed=1)
    expected = [numpy_oracle.mix_heads(x, kernel) for x in logits]
    with jax.enable_x64(True):
        out = head_mixing(jnp.asarray(logits), jnp.asarray(kernel))
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_kernel_is_indexed_in_then_out():
    logits = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    first_in_second_out = jnp.array([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_array_equal(head_mixing(logits, first_in_second_out).ravel(), [0, 1, 0, 0])


def test_groups_are_consecutive_heads_and_do_not_mix():
    kernel = normal(2, 3, 3).astype(np.float32)
    gradient = jax.jacobian(lambda x: head_mixing(x, jnp.asarray(kernel)))(jnp.ones((1, 6, 1, 1)))
    reaches = np.asarray(gradient).reshape(6, 6) != 0
    np.testing.assert_array_equal(reaches, np.kron(np.eye(2), np.ones((3, 3))) != 0)


def test_identity_kernel_keeps_the_maps():
    logits = jnp.asarray(normal(2, 4, 3, 5), jnp.float32)
    kernel = jnp.tile(jnp.eye(2), (2, 1, 1))
    np.testing.assert_array_equal(head_mixing(logits, kernel), logits)


def test_result_has_the_dtype_of_the_maps():
    logits, kernel = jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2, 2), jnp.bfloat16)
    assert jax.eval_shape(head_mixing, logits, kernel).dtype == jnp.float32


def test_kernel_gradient_of_a_long_map_is_within_twice_the_error_of_a_plain_sum():
    rng = np.random.default_rng(0)
    x, cotangent = (rng.normal(size=(2, 8, 63, 63)).astype(np.float32) for _ in range(2))
    kernel = rng.normal(size=(2, 4, 4)).astype(np.float32)
    _, pull = jax.vjp(head_mixing, jnp.asarray(x), jnp.asarray(kernel))
    gradient = np.asarray(pull(jnp.asarray(cotangent))[1], np.float64)
    by_group = [array.reshape(2, 2, 4, 63, 63) for array in (x, cotangent)]
    exact = np.einsum("BMCTS,BMOTS->MCO", *(array.astype(np.float64) for array in by_group))
    plain = np.einsum("BMCTS,BMOTS->MCO", *by_group)
    error, plain_error = (np.sqrt(np.mean((g - exact) ** 2)) for g in (gradient, plain))
    assert error <= 2 * plain_error
