import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import HeadMixing, KeyQueryConvolution
from tests.layers.tools import drawn, normal, unchecked_types, value
from tests.ops import numpy_oracle

MAPS = normal(2, 4, 5, 6)


@jax.jit
def call(module, maps, **where):
    return module(maps, **where)


@pytest.mark.parametrize("segment_ids", [None, np.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 2]])])
def test_convolution_is_its_formula(segment_ids):
    module = drawn(lambda: KeyQueryConvolution(4, (3, 2), key_padding="left", rngs=nnx.Rngs(0)))
    where = {} if segment_ids is None else {"segment_ids": jnp.asarray(segment_ids)}
    expected = [
        numpy_oracle.convolve(
            np.asarray(maps, np.float64),
            value(module.kernel),
            key_padding="left",
            segments=None if segment_ids is None else segment_ids[batch],
        )
        for batch, maps in enumerate(MAPS)
    ]
    np.testing.assert_allclose(call(module, MAPS, **where), expected, atol=1e-5)


@pytest.mark.parametrize(("key_padding", "key_size"), [("both", 5), ("left", 4), ("right", 4)])
def test_convolution_starts_as_a_no_op(key_padding, key_size):
    module = KeyQueryConvolution(4, (3, key_size), key_padding=key_padding, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(call(module, MAPS), MAPS)


def test_diagonal_convolution_sums_a_run_of_matches():
    module = KeyQueryConvolution(4, (3, 5), kernel_init="diagonal", rngs=nnx.Rngs(0))
    maps = np.asarray(MAPS)
    expected = maps.copy()
    expected[:, :, 1:, 1:] += maps[:, :, :-1, :-1]
    expected[:, :, 2:, 2:] += maps[:, :, :-2, :-2]
    np.testing.assert_allclose(call(module, MAPS), expected, atol=1e-6)


def test_mixing_is_a_matrix_from_in_to_out_within_each_group():
    module = drawn(lambda: HeadMixing(4, 2, rngs=nnx.Rngs(0)))
    assert module.kernel.shape == (2, 2, 2)
    expected = [
        numpy_oracle.mix_heads(np.asarray(maps, np.float64), value(module.kernel)) for maps in MAPS
    ]
    np.testing.assert_allclose(call(module, MAPS), expected, atol=1e-5)


@pytest.mark.parametrize("num_heads", [2, 6, 8])
def test_kernels_of_other_heads_than_the_maps_are_refused(num_heads):
    convolution = KeyQueryConvolution(num_heads, (2, 3), rngs=nnx.Rngs(0))
    with (
        unchecked_types(),
        pytest.raises(ValueError, match=rf"kq_kernel has shape \({num_heads}, 2, 3\): .* \[4, Cq"),
    ):
        convolution(MAPS)
    mixing = HeadMixing(num_heads, 2, rngs=nnx.Rngs(0))
    with (
        unchecked_types(),
        pytest.raises(ValueError, match=r"head_kernel has shape .* groups \* size = 4 heads"),
    ):
        mixing(MAPS)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_mixing_starts_as_a_no_op(group_size):
    module = HeadMixing(4, group_size, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(call(module, MAPS), MAPS)


@pytest.mark.parametrize("group_size", [0, 3, 8])
def test_groups_must_divide_the_heads(group_size):
    message = f"head kernel size {group_size} with 4 heads: must divide the heads"
    with pytest.raises(ValueError, match=message):
        HeadMixing(4, group_size, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("size", [(0, 3), (2, 0)])
def test_kernels_have_at_least_one_tap(size):
    with pytest.raises(ValueError, match=re.escape(f"key-query kernel size {size}: both must be")):
        KeyQueryConvolution(4, size, rngs=nnx.Rngs(0))


def test_centred_kernels_have_a_centre():
    with pytest.raises(ValueError, match="key kernel size 4 with key_padding 'both'"):
        KeyQueryConvolution(4, (2, 4), rngs=nnx.Rngs(0))
