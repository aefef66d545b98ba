import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.layers import initializers
from tests.layers.tools import unchecked_types


def kq_kernel(init, shape=(16, 6, 11), key_padding="both", *, seed=0):
    return compiled(initializers.kq_kernel, init, shape, key_padding=key_padding)(seed)


def head_kernel(init, shape=(4, 16, 16), *, seed=0):
    return compiled(initializers.head_kernel, init, shape)(seed)


@functools.cache
def compiled(make, init, shape, **options):
    @jax.jit
    def kernel(seed):
        return make(init, shape, key=jax.random.key(seed), dtype=jnp.float32, **options)

    return lambda seed: np.asarray(kernel(seed)).reshape(shape)


@pytest.mark.parametrize(("key_padding", "column"), [("both", 2), ("left", 4), ("right", 0)])
def test_identity_kernel_is_one_on_the_query_and_key_themselves(key_padding, column):
    kernel = kq_kernel("identity", (2, 3, 5), key_padding)
    expected = np.zeros((2, 3, 5))
    expected[:, -1, column] = 1
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
    ("key_padding", "taps"),
    [("both", [(2, 2), (1, 1), (0, 0)]), ("left", [(2, 4), (1, 3), (0, 2)]), ("right", [(2, 0)])],
)
def test_diagonal_kernel_is_one_on_earlier_queries_with_as_much_earlier_keys(key_padding, taps):
    kernel = kq_kernel("diagonal", (2, 3, 5), key_padding)
    expected = np.zeros((2, 3, 5))
    for row, column in taps:
        expected[:, row, column] = 1
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize("init", ["identity", "diagonal"])
def test_head_mixing_starts_as_the_identity(init):
    np.testing.assert_array_equal(head_kernel(init, (3, 2, 2)), [np.eye(2)] * 3)


@pytest.mark.parametrize(("init", "number"), [("constant", 0.3), ("zero", 0.0)])
def test_constant_kernels_are_one_number(init, number):
    assert (kq_kernel(init, (2, 3, 5)) == np.float32(number)).all()
    assert (head_kernel(init, (3, 2, 2)) == np.float32(number)).all()


def test_uniform_kernels_fill_minus_one_to_one():
    for kernel in (kq_kernel("uniform"), head_kernel("uniform")):
        assert np.abs(kernel).max() <= 1
        assert kernel.mean() == pytest.approx(0, abs=0.06)
        assert kernel.std() == pytest.approx(3**-0.5, rel=0.06)


def test_normal_kernels_keep_the_variance_of_a_sum_over_their_taps():
    assert kq_kernel("normal").std() == pytest.approx(66**-0.5, rel=0.08)
    assert head_kernel("normal").std() == pytest.approx(16**-0.5, rel=0.08)


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_random_kernels_follow_their_key(init):
    assert (kq_kernel(init) != kq_kernel(init, seed=1)).all()
    assert (head_kernel(init) != head_kernel(init, seed=1)).all()
    np.testing.assert_array_equal(kq_kernel(init), kq_kernel(init))


def test_unknown_init_is_refused():
    message = "kernel init 'ones': must be identity, constant, uniform, normal, diagonal or zero"
    with unchecked_types():
        with pytest.raises(ValueError, match=message):
            kq_kernel("ones", (2, 3, 5))
        with pytest.raises(ValueError, match=message):
            head_kernel("ones", (3, 2, 2))


def test_projections_start_with_the_inverse_root_of_their_inputs_cut_at_three_deviations():
    init = initializers.projection_init(100)
    weights = np.asarray(jax.jit(lambda key: init(key, (100, 60)))(jax.random.key(0)))
    assert weights.std() == pytest.approx(0.1, rel=0.05)
    assert 0.25 < np.abs(weights).max() <= 0.3
