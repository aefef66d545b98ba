import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.masks import MASK_VALUE, attention_mask, row_tap_mask


def drawn(picture):
    """True where a drawn row has a 1."""
    return np.array([[cell == "1" for cell in row.split()] for row in picture.strip().split("\n")])


def test_causal_packed_sequence_looks_as_drawn():
    ids = jnp.array([[0, 0, 1, 1]])
    mask = attention_mask(4, 4, is_causal=True, segment_ids=ids, key_segment_ids=ids)
    expected = drawn("""
        1 . . .
        1 1 . .
        . . 1 .
        . . 1 1
    """)
    np.testing.assert_array_equal(mask[0, 0], expected)


def test_interleaved_documents_look_as_drawn():
    ids = jnp.array([[0, 1, 0, 1]])
    mask = attention_mask(4, 4, is_causal=True, segment_ids=ids, key_segment_ids=ids)
    expected = drawn("""
        1 . . .
        . 1 . .
        1 . 1 .
        . 1 . 1
    """)
    np.testing.assert_array_equal(mask[0, 0], expected)


def test_query_offset_moves_the_diagonal():
    expected = drawn("""
        1 1 1 . .
        1 1 1 1 .
        1 1 1 1 1
    """)
    np.testing.assert_array_equal(
        attention_mask(3, 5, is_causal=True, query_offset=2)[0, 0], expected
    )
    traced = jax.jit(lambda offset: attention_mask(3, 5, is_causal=True, query_offset=offset))
    np.testing.assert_array_equal(traced(2)[0, 0], expected)


def test_negative_query_offset_leaves_rows_without_keys():
    mask = attention_mask(4, 2, is_causal=True, query_offset=-2)
    expected = drawn("""
        . .
        . .
        1 .
        1 1
    """)
    np.testing.assert_array_equal(mask[0, 0], expected)


def test_bidirectional_attention_sees_everything():
    assert attention_mask(3, 5, is_causal=False, query_offset=-3).all()


@pytest.mark.parametrize("shape", [(2, 1, 1, 4), (1, 3, 1, 4), (2, 3, 4, 4), (1, 1, 4, 1)])
def test_given_mask_restricts_further(shape):
    given = np.random.default_rng(0).random(shape) < 0.5
    mask = attention_mask(4, 4, is_causal=True, mask=jnp.asarray(given))
    assert mask.shape == (shape[0], shape[1], 4, 4)
    expected = np.broadcast_to(given, mask.shape) & np.tri(4, dtype=bool)
    np.testing.assert_array_equal(mask, expected)


def test_keys_and_queries_have_their_own_segments():
    ids, key_ids = jnp.array([[0, 1], [1, 1]]), jnp.array([[0, 0, 1], [2, 1, 0]])
    mask = attention_mask(2, 3, is_causal=False, segment_ids=ids, key_segment_ids=key_ids)
    assert mask.shape == (2, 1, 2, 3)
    np.testing.assert_array_equal(mask[0, 0], drawn("1 1 .\n. . 1"))
    np.testing.assert_array_equal(mask[1, 0], drawn(". 1 .\n. 1 ."))


@pytest.mark.parametrize("query_kernel_size", [1, 2, 4, 7])
def test_row_taps_stay_inside_the_document(query_kernel_size):
    ids = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0]])
    valid = row_tap_mask(jnp.asarray(ids), query_kernel_size)
    expected = np.zeros((2, query_kernel_size, 5), bool)
    for b in range(2):
        for a in range(query_kernel_size):
            for i in range(5):
                row = i - (query_kernel_size - 1) + a
                expected[b, a, i] = row >= 0 and ids[b, row] == ids[b, i]
    np.testing.assert_array_equal(valid, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mask_value_is_finite_and_underflows_to_zero(dtype):
    value = jnp.asarray(MASK_VALUE, dtype)
    assert jnp.isfinite(value)
    assert jnp.isfinite(value - value)
    assert jnp.exp(value - jnp.asarray(-1e4, dtype)) == 0
