import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from mta_jax.inference import Decoder, Sampling
from mta_jax.interop.retrofit import retrofit
from mta_jax.models import ModelConfig, MTAConfig, Transformer
from tests.layers.tools import drawn

CONFIG = ModelConfig(
    vocab_size=13,
    num_layers=2,
    embed_dim=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_dim=24,
    attention="transformer",
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 24)))
SEGMENTS = jnp.asarray(np.repeat([[1, 2, 3]], [9, 10, 5], axis=1).repeat(2, axis=0))
PLAIN = MTAConfig(
    pre_kq_kernel_size=None,
    post_kq_kernel_size=None,
    pre_head_kernel_size=None,
    post_head_kernel_size=None,
    group_norm=None,
)


def structure(config):
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    return graphdef


@pytest.fixture(scope="module")
def params():
    model = drawn(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def logits(config, params, tokens=TOKENS, **where):
    @jax.jit
    def forward(params):
        return nnx.merge(structure(config), params)(tokens, **where)

    return np.asarray(forward(params))


def choices():
    """Every place of a kernel alone, all together, and every choice of one with several."""
    for name, size in {
        "pre_kq_kernel_size": (3, 5),
        "post_kq_kernel_size": (3, 5),
        "pre_head_kernel_size": "all",
        "post_head_kernel_size": 2,
    }.items():
        yield pytest.param({name: size}, id=name)
    every = {"pre_kq_kernel_size": (2, 3), "post_kq_kernel_size": (3, 3)}
    heads = {"pre_head_kernel_size": 2, "post_head_kernel_size": "all"}
    yield pytest.param(every | heads | {"kq_layers": [1]}, id="all")
    for padding, keys in itertools.product(("left", "right"), (2, 3)):
        sizes = dict.fromkeys(every, (2, keys))
        yield pytest.param(sizes | {"key_padding": padding}, id=f"{padding}-{keys}")


@pytest.mark.parametrize("choice", list(choices()))
def test_outputs_are_those_of_the_model_before(params, choice):
    config, new = retrofit(CONFIG, params, dataclasses.replace(PLAIN, **choice))
    assert config.attention == "mta"
    for where in ({}, {"segment_ids": SEGMENTS}):
        before = logits(CONFIG, params, **where)
        after = logits(config, new, **where)
        np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_a_greedy_continuation_is_the_same(params):
    mta = dataclasses.replace(MTAConfig(), group_norm=None)
    config, new = retrofit(CONFIG, params, mta)

    def continuation(config, params):
        decoder = Decoder(graphdef=structure(config), params=params, eos_id=-1, num_tokens=13)
        prompt = np.asarray(TOKENS[0, :4])
        (written,) = decoder.generate(
            [prompt], max_new_tokens=20, sampling=Sampling(temperature=0.0)
        )
        return written.tokens

    before = continuation(CONFIG, params)
    assert len(before) == 20
    np.testing.assert_array_equal(continuation(config, new), before)


def test_the_parameters_of_the_model_are_kept_and_only_those_of_mixing_are_added(params):
    before = traverse_util.flatten_dict(params)
    _, new = retrofit(CONFIG, params, dataclasses.replace(MTAConfig(), kq_layers=[1]))
    after = traverse_util.flatten_dict(new)
    assert set(before) == set(traverse_util.flatten_dict(params))
    assert all(after[path] is leaf for path, leaf in before.items())
    added = {path[1:4:2] for path in after if path not in before}
    both = {(layer, name) for layer in (0, 1) for name in ("pre_head", "post_head", "group_norm")}
    assert added == both | {(1, "pre_kq"), (1, "post_kq")}


def test_the_new_model_is_the_one_that_its_config_says(params):
    config, new = retrofit(CONFIG, params, MTAConfig(), seed=3)
    built = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    expected = nnx.to_pure_dict(nnx.state(built, nnx.Param))
    assert jax.tree.structure(new) == jax.tree.structure(expected)
    assert [x.shape for x in jax.tree.leaves(new)] == [x.shape for x in jax.tree.leaves(expected)]


def test_a_group_norm_changes_the_function(params):
    config, new = retrofit(CONFIG, params, dataclasses.replace(PLAIN, group_norm="gate"))
    assert np.abs(logits(config, new) - logits(CONFIG, params)).max() > 0.01


def test_only_ordinary_attention_can_be_given_it(params):
    config = dataclasses.replace(CONFIG, attention=["transformer", "mta"])
    with pytest.raises(ValueError, match=r"model.attention \['transformer', 'mta'\]: only a model"):
        retrofit(config, params, MTAConfig())
    mta = dataclasses.replace(MTAConfig(), pre_head_kernel_size=3)
    with pytest.raises(ValueError, match=r"pre_head_kernel_size 3: must divide num_heads 4"):
        retrofit(CONFIG, params, mta)
