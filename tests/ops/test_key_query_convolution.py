import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from mta_jax.ops.key_query_convolution import key_padding_widths, key_query_convolution
from tests.ops import numpy_oracle

convolve = jax.jit(key_query_convolution, static_argnames="key_padding")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("key_kernel_size", "key_padding", "widths"),
    [
        (1, "both", (0, 0)),
        (11, "both", (5, 5)),
        (4, "left", (3, 0)),
        (5, "left", (4, 0)),
        (4, "right", (0, 3)),
    ],
)
def test_padding_keeps_the_key_length(key_kernel_size, key_padding, widths):
    assert key_padding_widths(key_kernel_size, key_padding) == widths


def test_even_kernel_has_no_centre():
    with pytest.raises(ValueError, match="key kernel size 4 with key_padding 'both'"):
        key_query_convolution(jnp.zeros((1, 1, 3, 3)), jnp.zeros((1, 2, 4)))


def test_unknown_padding_is_refused(unchecked_shapes):
    with pytest.raises(ValueError, match="key_padding 'same': must be"):
        key_padding_widths(3, "same")


@pytest.mark.parametrize("segments", ["one", "packed", "interleaved"])
@pytest.mark.parametrize(
    ("kernel_size", "key_padding"),
    [
        ((1, 1), "both"),
        ((2, 9), "both"),
        ((6, 11), "both"),
        ((3, 19), "both"),
        ((3, 4), "left"),
        ((2, 9), "left"),
        ((3, 4), "right"),
        ((2, 19), "right"),
    ],
)
def test_equals_the_loops(kernel_size, key_padding, segments):
    ids = {
        "one": None,
        "packed": np.array([[0, 0, 1, 1, 1, 1, 2], [5, 5, 5, 5, 5, 5, 2]]),
        "interleaved": np.array([[0, 1, 0, 1, 1, 0, 2], [3, 0, 0, 3, 1, 3, 0]]),
    }[segments]
    logits, kernel = normal(2, 3, 7, 10), normal(3, *kernel_size, seed=1)
    expected = [
        numpy_oracle.convolve(
            x, kernel, key_padding=key_padding, segments=None if ids is None else ids[b]
        )
        for b, x in enumerate(logits)
    ]
    with jax.enable_x64(True):
        out = convolve(logits, kernel, key_padding=key_padding, segment_ids=ids)
    assert out.dtype == jnp.float64
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("key_kernel_size", [11, 67])
@pytest.mark.parametrize("key_length", [1, 8, 17, 64, 127, 128, 129, 257])
def test_equals_cross_correlation_as_in_torch(key_length, key_kernel_size):
    """The authors pad (Cq - 1, 0) rows and call `conv2d`, which does not flip kernels."""
    logits, kernel = normal(1, 2, 4, key_length), normal(2, 3, key_kernel_size, seed=1)
    reach = key_kernel_size // 2
    padded = np.pad(logits, ((0, 0), (0, 0), (2, 0), (reach, reach)))
    expected = [scipy.signal.correlate2d(padded[0, n], kernel[n], mode="valid") for n in range(2)]
    with jax.enable_x64(True):
        out = convolve(logits, kernel)[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_tap_reads_the_earlier_row_and_the_earlier_key():
    logits = np.zeros((1, 1, 4, 5), np.float32)
    logits[0, 0, 1, 2] = 1
    kernel = np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3)
    expected = np.zeros((4, 5), np.float32)
    expected[1, 1:4] = [6, 5, 4]
    expected[2, 1:4] = [3, 2, 1]
    np.testing.assert_array_equal(convolve(logits, kernel)[0, 0], expected)


@pytest.mark.parametrize(("key_padding", "tap"), [("both", 2), ("left", 4), ("right", 0)])
def test_identity_tap_keeps_the_map(key_padding, tap):
    logits = normal(2, 3, 6, 9).astype(np.float32)
    kernel = np.zeros((3, 4, 5), np.float32)
    kernel[:, -1, tap] = 1
    np.testing.assert_array_equal(convolve(logits, kernel, key_padding=key_padding), logits)


def test_heads_do_not_mix():
    logits, kernel = normal(1, 3, 4, 5).astype(np.float32), normal(3, 2, 3).astype(np.float32)
    changed = logits.copy()
    changed[:, 1] += 1
    differs = (convolve(logits, kernel) != convolve(changed, kernel)).any(axis=(0, 2, 3))
    np.testing.assert_array_equal(differs, [False, True, False])


def test_each_document_is_convolved_as_if_alone():
    lengths = (3, 4)
    kernel = normal(2, 3, 5, seed=1)
    alone = [normal(1, 2, length, length, seed=length) for length in lengths]
    packed = np.zeros((1, 2, 7, 7))
    packed[..., :3, :3], packed[..., 3:, 3:] = alone
    ids = np.repeat(np.arange(2), lengths)[None]
    with jax.enable_x64(True):
        out = convolve(packed, kernel, segment_ids=ids)
        first, second = (convolve(x, kernel) for x in alone)
        unaware = convolve(packed, kernel)
    np.testing.assert_allclose(out[..., :3, :3], first, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out[..., 3:, 3:], second, rtol=0, atol=1e-12)
    assert not np.allclose(unaware[..., 3:, 3:], second)


def test_one_document_equals_no_segments():
    logits, kernel = normal(2, 2, 6, 6), normal(2, 3, 5, seed=1)
    with jax.enable_x64(True):
        out = convolve(logits, kernel, segment_ids=np.full((2, 6), 7))
        np.testing.assert_allclose(out, convolve(logits, kernel), rtol=0, atol=1e-12)


def test_result_has_the_dtype_of_the_map():
    logits, kernel = jnp.zeros((1, 2, 3, 4)), jnp.zeros((2, 2, 3), jnp.bfloat16)
    assert jax.eval_shape(key_query_convolution, logits, kernel).dtype == jnp.float32
