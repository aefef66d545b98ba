import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from mta_jax.layers.low_rank import add_low_rank, merged
from mta_jax.layers.projections import heads_projection, output_projection
from tests.layers.tools import drawn, normal

RANK, ALPHA = 3, 6.0


class Pair(nnx.Module):
    """A projection to heads and one back, with a linear layer behind."""

    def __init__(self, rngs, *, rank=None, names=("first", "second", "third"), dtype=None):
        self.first = heads_projection(8, 2, 5, dtype=dtype, rngs=rngs)
        self.second = output_projection(2, 5, 6, dtype=dtype, use_bias=True, rngs=rngs)
        self.third = nnx.Linear(6, 4, dtype=dtype, rngs=rngs)
        if rank is not None:
            add_low_rank(self, names, rank=rank, alpha=ALPHA, rngs=rngs)

    def __call__(self, x):
        return self.third(self.second(self.first(x)))


@functools.cache
def x():
    return normal(2, 7, 8)


def params_of(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def test_a_new_term_is_zero_to_the_bit():
    with_terms = Pair(nnx.Rngs(0), rank=RANK)
    without = Pair(nnx.Rngs(0))
    np.testing.assert_array_equal(with_terms(x()), without(x()))
    assert np.any(with_terms.first.dot_general.lora_a[...])


def test_a_projection_with_a_term_is_its_formula():
    module = drawn(lambda: Pair(nnx.Rngs(0), rank=RANK, names=("second",)))
    heads = module.first(x())
    flat = {
        ".".join(path): np.asarray(leaf, np.float64)
        for path, leaf in traverse_util.flatten_dict(params_of(module)).items()
    }
    a, b = flat["second.dot_general.lora_a"], flat["second.dot_general.lora_b"]
    assert a.shape == (2, 5, RANK)
    assert b.shape == (RANK, 6)
    kernel = flat["second.kernel"] + ALPHA / RANK * np.einsum("NHR,RD->NHD", a, b)
    expected = np.einsum("BTNH,NHD->BTD", np.asarray(heads, np.float64), kernel)
    np.testing.assert_allclose(module.second(heads), expected + flat["second.bias"], rtol=1e-5)


def test_merged_kernels_compute_what_kernels_and_terms_do():
    module = drawn(lambda: Pair(nnx.Rngs(0), rank=RANK))
    graphdef, _ = nnx.split(Pair(nnx.Rngs(0)))
    params = merged(params_of(module), rank=RANK, alpha=ALPHA)
    got = nnx.merge(graphdef, params)(x())
    expected = module(x())
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    # The terms matter: without them it would be another function.
    kernels = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(params_of(module)).items()
        if "dot_general" not in path
    }
    bare = nnx.merge(graphdef, traverse_util.unflatten_dict(kernels))(x())
    assert np.abs(bare - expected).max() > 0.1 * np.abs(expected).max()


def test_terms_are_computed_in_the_dtype_of_the_projection():
    module = drawn(lambda: Pair(nnx.Rngs(0), rank=RANK, dtype=jnp.bfloat16))
    assert module.first.dot_general.lora_a.dtype == jnp.float32
    assert module(x()).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, "rank 0: must be in 1..8, the width of first"),
        (7, "rank 7: must be in 1..6, the width of second"),
    ],
)
def test_a_rank_that_is_no_bottleneck_is_refused(rank, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: params_of(Pair(nnx.Rngs(0), rank=rank)))


def test_a_projection_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="projections fourth: the model has none of that name"):
        Pair(nnx.Rngs(0), rank=RANK, names=("first", "fourth"))
