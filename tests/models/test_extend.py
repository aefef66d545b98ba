import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from tests.layers.tools import drawn

LENGTH, VOCAB_SIZE = 12, 32
CONFIG = ModelConfig(
    vocab_size=VOCAB_SIZE,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_dim=32,
    mta=MTAConfig(
        pre_kq_kernel_size=(3, 5),
        post_kq_kernel_size=(2, 3),
        pre_head_kernel_size=2,
        kq_layers=[1],
    ),
)
KINDS = ["transformer", "mta", "talking_heads", "diff", ["mta", "transformer"]]


def model_of(kind, **changes):
    config = dataclasses.replace(CONFIG, attention=kind, **changes)
    return drawn(lambda: Transformer(config, rngs=nnx.Rngs(0)), scale=0.2)


def tokens_of(batch=2, seed=0):
    tokens = np.random.default_rng(seed).integers(VOCAB_SIZE, size=(batch, LENGTH))
    return jnp.asarray(tokens, jnp.int32)


def extend(model, tokens, cache, counts=None, window=None):
    """Compiled once for each shape, as everywhere else."""
    graphdef, params = nnx.split(model)
    return _extend(graphdef, params, jnp.asarray(tokens), cache, counts, window)


def _extended(graphdef, params, tokens, cache, counts, window):
    model = nnx.merge(graphdef, params)
    return model.extend(tokens, cache, counts=counts, window=window)


_extend = jax.jit(_extended, static_argnums=(0, 5))


def assert_close(features, expected):
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_token_by_token_equals_all_at_once(kind):
    model, tokens = model_of(kind), tokens_of()
    cache = model.empty_cache(2, LENGTH)
    outs = []
    for place in range(LENGTH):
        out, cache = extend(model, tokens[:, place : place + 1], cache)
        outs.append(out)
    assert_close(jnp.concatenate(outs, axis=1), model.features(tokens))
    assert cache.lengths.tolist() == [LENGTH, LENGTH]
    assert cache.room.tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_chunks_of_any_length_equal_all_at_once(kind):
    model, tokens = model_of(kind), tokens_of()
    first, cache = model.extend(tokens[:, :5], model.empty_cache(2, LENGTH), from_empty=True)
    second, cache = model.extend(tokens[:, 5:6], cache)
    third, cache = model.extend(tokens[:, 6:], cache)
    assert_close(jnp.concatenate([first, second, third], axis=1), model.features(tokens))


def test_a_model_without_rotary_pairs_of_neighbours_and_with_all_options_extends():
    model = model_of(
        "mta", rope_layout="half_split", qkv_bias=True, qk_norm=True, tie_embeddings=False
    )
    tokens = tokens_of()
    first, cache = extend(model, tokens[:, :7], model.empty_cache(2, LENGTH))
    second, _ = extend(model, tokens[:, 7:], cache)
    assert_close(jnp.concatenate([first, second], axis=1), model.features(tokens))


def test_bfloat16_rounds_no_more_than_all_at_once():
    exact = model_of("mta").features(tokens_of())
    model, tokens = model_of("mta", dtype="bfloat16"), tokens_of()
    cache = model.empty_cache(2, LENGTH)
    assert {leaf.dtype for leaf in jax.tree.leaves(cache.layers)} == {jnp.dtype("bfloat16")}
    outs = []
    for place in range(LENGTH):
        out, cache = extend(model, tokens[:, place : place + 1], cache)
        outs.append(out)
    errors = [
        float(jnp.linalg.norm((out.astype(jnp.float32) - exact).ravel()))
        for out in (jnp.concatenate(outs, axis=1), model.features(tokens))
    ]
    assert 0 < errors[0] <= 2 * errors[1]


def test_padding_is_not_read():
    model, tokens = model_of("mta"), tokens_of()
    cache = model.empty_cache(2, LENGTH)
    _, cache = extend(model, tokens[:, :6], cache, counts=jnp.array([2, 6]))
    shifted = np.stack([np.r_[tokens[0, 2:8]], np.r_[tokens[1, 6:12]]])
    out, cache = extend(model, shifted, cache, counts=jnp.array([6, 6]))
    expected = model.features(tokens)
    assert_close(out[0], expected[0, 2:8])
    assert_close(out[1], expected[1, 6:12])
    assert cache.lengths.tolist() == [8, 12]


def test_a_grown_cache_has_room_for_more():
    model, tokens = model_of("mta"), tokens_of()
    _, cache = extend(model, tokens[:, :6], model.empty_cache(2, 6))
    cache = cache.grown(LENGTH)
    out, _ = extend(model, tokens[:, 6:], cache)
    assert_close(out, model.features(tokens)[:, 6:])
    with pytest.raises(ValueError, match="capacity 3: must be at least 12"):
        cache.grown(3)


def test_a_full_cache_gives_nan_and_not_something_wrong():
    model, tokens = model_of("mta"), tokens_of()
    out, cache = extend(model, tokens[:, :6], model.empty_cache(2, 8), counts=jnp.array([6, 3]))
    assert not bool(jnp.isnan(out[0]).any())
    out, _ = extend(model, tokens[:, 6:9], cache)
    assert bool(jnp.isnan(out[0]).all())
    assert not bool(jnp.isnan(out[1]).any())


@pytest.mark.parametrize("kind", ["mta", "diff"])
def test_forgetting_what_no_window_sees_changes_nothing(kind):
    model, tokens, window = model_of(kind), tokens_of(), 4
    whole = model.empty_cache(2, LENGTH)
    expected = []
    for place in range(LENGTH):
        out, whole = extend(model, tokens[:, place : place + 1], whole, window=window)
        expected.append(out)
    cache = model.empty_cache(2, 10)
    for place in range(LENGTH):
        if int(cache.room.min()) == 0:
            cache = cache.shifted(window + cache.num_past_queries)
        out, cache = extend(model, tokens[:, place : place + 1], cache, window=window)
        assert_close(out, expected[place])
    assert cache.dropped.tolist() == [LENGTH - int(n) for n in cache.lengths]
    assert int(cache.dropped[0]) > 0
    # The window does hide something.
    assert float(jnp.abs(expected[-1] - model.features(tokens)[:, -1:]).max()) > 1e-2


def test_a_window_of_all_tokens_hides_nothing():
    model, tokens = model_of("mta"), tokens_of()
    out, _ = extend(model, tokens, model.empty_cache(2, LENGTH), window=LENGTH)
    assert_close(out, model.features(tokens))


def test_only_layers_whose_kernels_reach_back_keep_queries():
    cache = model_of("mta").empty_cache(1, 8)
    assert [layer.num_past_queries for layer in cache.layers] == [0, 3]
    assert cache.num_past_queries == 3


def test_a_window_with_from_empty_is_refused():
    model = model_of("mta")
    with pytest.raises(ValueError, match="window 3 with from_empty"):
        model.extend(tokens_of(), model.empty_cache(2, LENGTH), window=3, from_empty=True)
