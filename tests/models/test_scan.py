import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from mta_jax.models.scan import Stretch, stretches
from mta_jax.ops.rope import RopeScaling
from tests.layers.tools import drawn

MTA = MTAConfig(pre_kq_kernel_size=(2, 3), post_kq_kernel_size=(2, 3))
CONFIG = ModelConfig(
    vocab_size=11,
    embed_dim=8,
    num_heads=2,
    mlp_dim=8,
    mta=MTA,
    attention_implementation="xla",
    scan_layers=True,
)
CONFIGS = {
    # With all that a converted model may bring along.
    "transformer": {
        "num_layers": 3,
        "attention": "transformer",
        "qkv_bias": True,
        "qk_norm": True,
        "rope_scaling": RopeScaling(kind="linear", factor=2.0),
    },
    "talking_heads": {"num_layers": 2, "attention": "talking_heads", "remat": "dots"},
    "diff": {"num_layers": 3, "attention": "diff", "attention_dropout": 0.3},
    # The last layer is the rest of a pattern of two.
    "mta": {
        "num_layers": 5,
        "mta": dataclasses.replace(MTA, kq_layers=[1, 3]),
        "attention_dropout": 0.3,
        "remat": "full",
    },
    "depth": {"num_layers": 3, "mta": dataclasses.replace(MTA, group_norm="depth")},
    "mixed": {
        "num_layers": 6,
        "attention": ["transformer", "diff", "mta", "diff", "mta", "talking_heads"],
        "attention_dropout": 0.3,
    },
    "without_repetition": {"num_layers": 2, "attention": ["diff", "transformer"]},
}
SEGMENTS = jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 0, 0]])
POSITIONS = jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 0, 0]])
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, size=(2, 8)))


def config_of(name: str, **changes) -> ModelConfig:
    return dataclasses.replace(CONFIG, **CONFIGS[name] | changes)


def loss_and_gradient(config: ModelConfig):
    """The function, and what it is to be called with."""
    model = drawn(lambda: Transformer(config, rngs=nnx.Rngs(0)), scale=0.3)
    graphdef, params = nnx.split(model)

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        where = {"segment_ids": SEGMENTS, "positions": POSITIONS}
        logits = model(TOKENS, **where, deterministic=False, rngs=nnx.Rngs(dropout=key))
        return jnp.mean(jax.nn.logsumexp(3 * logits, axis=-1))

    return jax.value_and_grad(loss), (nnx.to_pure_dict(params), jax.random.key(5))


@functools.cache
def computed(name: str, **changes):
    function, arguments = loss_and_gradient(config_of(name, **changes))
    return jax.jit(function)(*arguments)


@pytest.mark.parametrize("name", CONFIGS)
def test_scanned_layers_are_the_unrolled_ones(name):
    expected = computed(name, scan_layers=False)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        computed(name),
        expected,
    )


@pytest.mark.parametrize("name", ["mta", "diff"])
def test_bfloat16_is_as_near_to_float32_as_unrolled(name):
    exact = computed(name, scan_layers=False)

    def error(**changes):
        got = computed(name, dtype="bfloat16", **changes)
        relative = jax.tree.map(
            lambda a, b: jnp.linalg.norm(a - b) / jnp.linalg.norm(b), got, exact
        )
        # One parameter's error is luck, where its gradient is a difference of large numbers.
        return np.mean(jax.tree.leaves(relative))

    assert 1e-3 < error() <= 1.5 * error(scan_layers=False)


@pytest.mark.parametrize("name", ["mta", "mixed"])
def test_parameters_and_layers_are_those_without_the_option(name):
    models = [
        nnx.eval_shape(lambda on=on: Transformer(config_of(name, scan_layers=on), rngs=nnx.Rngs(0)))
        for on in (True, False)
    ]
    states = [nnx.state(model) for model in models]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) for state in states]
    assert shapes[0] == shapes[1]
    assert len(models[0].layers) == config_of(name).num_layers


def test_a_model_is_unchanged_by_its_application():
    model = drawn(lambda: Transformer(config_of("diff"), rngs=nnx.Rngs(0)))
    before = [block.attention.lambda_init for block in model.layers]
    graphdef, _ = nnx.split(model)
    model(TOKENS)
    assert [block.attention.lambda_init for block in model.layers] == before
    assert nnx.split(model)[0] == graphdef


def num_products(config: ModelConfig) -> int:
    function, arguments = loss_and_gradient(config)

    def count(jaxpr) -> int:
        inner = itertools.chain.from_iterable(
            jaxprs_in_params(equation.params) for equation in jaxpr.eqns
        )
        own = sum(equation.primitive.name == "dot_general" for equation in jaxpr.eqns)
        return own + sum(map(count, inner))

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_program_holds_each_layer_of_a_pattern_once(remat):
    def config(num_layers, **changes):
        kq_layers = list(range(1, num_layers, 2))
        mta = dataclasses.replace(MTA, kq_layers=kq_layers)
        return dataclasses.replace(CONFIG, num_layers=num_layers, mta=mta, remat=remat, **changes)

    pattern = num_products(config(2, scan_layers=False))
    assert num_products(config(12)) == num_products(config(4)) == pattern
    assert num_products(config(4, scan_layers=False)) > pattern


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("", []),
        ("a", [(0, 1, 1)]),
        ("ab", [(0, 2, 1)]),
        ("aaaa", [(0, 1, 4)]),
        ("aabaaabaaaba", [(0, 4, 3)]),
        ("aabaaabaaa", [(0, 4, 2), (8, 1, 2)]),
        ("abbbc", [(0, 1, 1), (1, 1, 3), (4, 1, 1)]),
        ("aaabbb", [(0, 1, 3), (3, 1, 3)]),
        ("xababaY", [(0, 1, 1), (1, 2, 2), (5, 2, 1)]),
        ("abcd", [(0, 4, 1)]),
    ],
)
def test_layers_divide_into_patterns(kinds, expected):
    assert stretches(kinds) == [Stretch(*each) for each in expected]


@pytest.mark.parametrize(("num_layers", "repeats"), [(24, 6), (20, 5)])
def test_convolution_in_every_fourth_layer_is_a_pattern_of_four(num_layers, repeats):
    assert stretches([layer % 4 == 2 for layer in range(num_layers)]) == [Stretch(0, 4, repeats)]
