import numpy as np
import pytest

from mta_jax.interop import layouts

CASES = {
    "VECTOR": ((5,), (5,)),
    "MATRIX": ((5, 3), (5, 3)),
    "LINEAR": ((5, 3), (3, 5)),
    "HEADS_IN": ((5, 2, 3), (6, 5)),
    "HEADS_OUT": ((2, 3, 5), (5, 6)),
    "HEADS_BIAS": ((2, 3), (6,)),
    "KEY_QUERY_KERNEL": ((2, 3, 5), (2, 1, 3, 5)),
    "HEAD_KERNEL": ((2, 3, 3), (2, 3, 3)),
    "HEAD_LINEAR": ((1, 4, 4), (4, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_ways_are_inverse_and_lose_nothing(name):
    ours, theirs = CASES[name]
    layout = getattr(layouts, name)
    array = np.random.default_rng(0).normal(size=ours).astype(np.float32)
    tensor = layout.to_theirs(array)
    assert tensor.shape == layout.their_shape(ours) == theirs
    np.testing.assert_array_equal(layout.to_ours(tensor, ours), array)


def test_a_projection_to_heads_computes_the_same():
    x, kernel = np.arange(5.0), np.random.default_rng(0).normal(size=(5, 2, 3))
    heads = np.einsum("d,dnh->nh", x, kernel)
    np.testing.assert_allclose(layouts.HEADS_IN.to_theirs(kernel) @ x, heads.ravel())


def test_a_linear_map_over_heads_has_outputs_as_rows():
    maps, kernel = np.arange(4.0), np.random.default_rng(0).normal(size=(1, 4, 4))
    mixed = np.einsum("i,io->o", maps, kernel[0])
    np.testing.assert_allclose(layouts.HEAD_LINEAR.to_theirs(kernel) @ maps, mixed)
