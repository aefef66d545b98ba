import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import Embedding
from tests.layers.tools import drawn, normal, value


def module(dtype=None) -> Embedding:
    return drawn(lambda: Embedding(7, 16, dtype=dtype, rngs=nnx.Rngs(0)))


def test_tokens_become_rows_of_the_matrix():
    embedding = module(jnp.bfloat16)
    tokens = jnp.array([[3, 0, 6]])
    embedded = jax.jit(lambda embedding: embedding(tokens))(embedding)
    assert embedded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(embedded, embedding.embedding[...][tokens].astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32_products_with_the_matrix(dtype):
    embedding = module(dtype)
    hidden = normal(2, 3, 16).astype(dtype)
    logits = jax.jit(lambda embedding: embedding.attend(hidden))(embedding)
    assert logits.dtype == jnp.float32
    rounded = np.asarray(embedding.embedding[...].astype(dtype), np.float64)
    # Much closer than bfloat16 could hold: sums are not rounded either.
    np.testing.assert_allclose(logits, np.asarray(hidden, np.float64) @ rounded.T, atol=1e-5)


def test_rows_start_with_the_inverse_root_of_the_width():
    embedding = jax.jit(lambda: Embedding(50, 100, rngs=nnx.Rngs(0)))()
    assert embedding.embedding.dtype == jnp.float32
    assert np.std(value(embedding.embedding)) == pytest.approx(0.1, rel=0.05)
    assert np.abs(value(embedding.embedding)).max() <= 0.3
