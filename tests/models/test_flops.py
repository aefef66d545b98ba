import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mta_jax.models import ModelConfig, MTAConfig, Transformer, model_preset
from mta_jax.models.flops import Flops, flops_per_token

# Five tokens: a query sees three keys.
LENGTH = 5
CONFIG = ModelConfig(
    vocab_size=7,
    num_layers=3,
    embed_dim=10,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_dim=11,
    attention="transformer",
    mta=MTAConfig(
        pre_kq_kernel_size=(2, 3),
        post_kq_kernel_size=(4, 5),
        kq_layers=[1],
        pre_head_kernel_size=2,
        post_head_kernel_size="all",
    ),
)
TRANSFORMER = Flops(
    # 10 x 24 of queries and of the output, 10 x 12 of keys and of values.
    projections=3 * 2 * (240 + 240 + 120 + 120),
    logits=3 * 2 * 4 * 6 * 3,
    values=3 * 2 * 4 * 6 * 3,
    key_query_convolution=0,
    head_mixing=0,
    feed_forward=3 * 2 * 3 * 110,
    output_layer=2 * 70,
)


@pytest.mark.parametrize(
    ("attention", "convolution", "mixing"),
    [
        ("transformer", 0, 0),
        ("diff", 0, 0),
        ("talking_heads", 0, 3 * 2 * (4 + 4) * 4 * 3),
        ("mta", 2 * (6 + 20) * 4 * 3, 3 * 2 * (2 + 4) * 4 * 3),
        (["talking_heads", "mta", "diff"], 2 * (6 + 20) * 4 * 3, 2 * (8 + 6) * 4 * 3),
        (["mta", "diff", "transformer"], 0, 2 * 6 * 4 * 3),
    ],
)
def test_count_by_hand(attention, convolution, mixing):
    config = dataclasses.replace(CONFIG, attention=attention)
    expected = dataclasses.replace(
        TRANSFORMER, key_query_convolution=convolution, head_mixing=mixing
    )
    flops = flops_per_token(config, LENGTH)
    assert flops == expected
    assert flops.forward == sum(dataclasses.asdict(expected).values())
    assert flops.training == 3 * flops.forward


def test_kernels_that_are_not_there_count_nothing():
    mta = MTAConfig(
        pre_kq_kernel_size=None,
        post_kq_kernel_size=(4, 5),
        pre_head_kernel_size=None,
        post_head_kernel_size=None,
    )
    flops = flops_per_token(dataclasses.replace(CONFIG, attention="mta", mta=mta), LENGTH)
    assert flops.key_query_convolution == 3 * 2 * 20 * 4 * 3
    assert flops.head_mixing == 0


def test_six_per_parameter_is_nearly_all_of_a_short_row():
    # Table 8 of the paper. Norms are the parameters that do not multiply.
    assert flops_per_token(model_preset("880m", "transformer"), 1).training == pytest.approx(
        6 * 876_553_728, rel=1e-3
    )


def test_attention_of_the_paper_grows_with_the_row():
    config = model_preset("880m", "mta")
    flops = flops_per_token(config, 2048)
    keys = 2049 / 2
    assert flops.logits == flops.values == 24 * 2 * 1536 * keys
    assert flops.key_query_convolution == 6 * 2 * 2 * 66 * 16 * keys
    assert flops.head_mixing == 24 * 2 * 2 * 16 * 16 * keys


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("attention", ["transformer", "talking_heads"])
def test_count_is_that_of_the_compiled_program(attention, num_kv_heads):
    length = 128
    config = ModelConfig(
        vocab_size=512,
        embed_dim=256,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        mlp_dim=512,
        attention=attention,
        attention_implementation="xla",
    )
    model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    compiled = jax.jit(lambda model, tokens: model(tokens)).lower(model, tokens).compile()

    flops = flops_per_token(config, length)
    # It computes the whole map.
    map_flops = flops.logits + flops.values + flops.head_mixing
    expected = flops.forward - map_flops + map_flops * 2 * length / (length + 1)
    assert compiled.cost_analysis()["flops"] / length == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("config", "length", "message"),
    [
        (CONFIG, 0, "length 0: must be at least 1"),
        (ModelConfig(), 8, "model.vocab_size null: the output layer needs its number of tokens"),
    ],
)
def test_what_cannot_be_counted_is_said(config, length, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        flops_per_token(config, length)
