import re

import pytest

from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.ops.rope import RopeScaling
from tests.layers.tools import unchecked_types


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "model.vocab_size 0: must be at least 1"),
        ({"num_layers": 0}, "model.num_layers 0: must be at least 1"),
        ({"embed_dim": -4}, "model.embed_dim -4: must be at least 1"),
        ({"num_heads": 0}, "model.num_heads 0: must be at least 1"),
        ({"num_kv_heads": 0}, "model.num_kv_heads 0: must be at least 1"),
        (
            {"embed_dim": 10, "num_heads": 4},
            "model.embed_dim 10 with num_heads 4: must be divisible, or set head_dim",
        ),
        ({"head_dim": 3}, "model.head_dim 3: must be even, for the rotary embedding"),
        ({"embed_dim": 12, "num_heads": 4}, "model.head_dim 3: must be even"),
        (
            {"num_heads": 4, "num_kv_heads": 3},
            "model.num_kv_heads 3: must divide num_heads 4",
        ),
        ({"attention_dropout": 1.0}, "model.attention_dropout 1.0: must be in [0, 1)"),
        ({"attention_dropout": -0.1}, "model.attention_dropout -0.1: must be in [0, 1)"),
        (
            {"num_layers": 3, "attention": ["mta", "diff"]},
            "model.attention lists 2 kinds: expected one for each of 3 layers",
        ),
        (
            {"embed_dim": 12, "num_heads": 3, "attention": "diff"},
            "model.num_heads 3, num_kv_heads 3: differential attention pairs heads, "
            "so both must be even",
        ),
        (
            {"num_heads": 2, "num_kv_heads": 1, "attention": ["transformer", "diff"]},
            "model.num_heads 2, num_kv_heads 1: differential attention pairs heads",
        ),
    ],
)
def test_wrong_model_field_is_named_with_its_value(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pre_head_kernel_size": 3},
            "model.mta.pre_head_kernel_size 3: must divide num_heads 4",
        ),
        (
            {"post_head_kernel_size": 0},
            "model.mta.post_head_kernel_size 0: must divide num_heads 4",
        ),
        ({"kq_layers": [0, 2]}, "model.mta.kq_layers names layer 2: must be in 0..1"),
        ({"kq_layers": [-1]}, "model.mta.kq_layers names layer -1: must be in 0..1"),
    ],
)
def test_mta_field_that_does_not_fit_the_model_is_named_with_its_value(fields, message):
    mta = MTAConfig(**fields)
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(num_heads=4, num_layers=2, mta=mta)
    ModelConfig(num_heads=4, num_layers=2, mta=mta, attention="transformer")


@pytest.mark.parametrize("name", ["pre_kq_kernel_size", "post_kq_kernel_size"])
def test_wrong_kernel_size_is_named_with_its_value(name):
    with pytest.raises(
        ValueError, match=re.escape(f"model.mta.{name} [0, 3]: expected [queries, keys]")
    ):
        MTAConfig(**{name: (0, 3)})
    message = f"model.mta.{name} [2, 4]: with key_padding 'both' the key size must be odd"
    with pytest.raises(ValueError, match=re.escape(message) + ".*such as 5"):
        MTAConfig(**{name: (2, 4)})
    for key_padding in ("left", "right"):
        MTAConfig(**{name: (2, 4)}, key_padding=key_padding)


def test_sizes_follow_from_width_and_heads_unless_given():
    config = ModelConfig(embed_dim=1024, num_heads=16)
    assert (config.head_size, config.kv_heads, config.mlp_size) == (64, 16, 2816)
    config = ModelConfig(embed_dim=1024, num_heads=16, head_dim=32, num_kv_heads=4, mlp_dim=100)
    assert (config.head_size, config.kv_heads, config.mlp_size) == (32, 4, 100)


def test_head_dim_frees_the_width():
    assert ModelConfig(embed_dim=10, num_heads=4, head_dim=6).head_size == 6


def test_attention_is_one_kind_or_one_per_layer():
    alike = ModelConfig(num_layers=2, attention="diff")
    assert [alike.attention_of(layer) for layer in range(2)] == ["diff", "diff"]
    mixed = ModelConfig(num_layers=2, attention=["mta", "diff"])
    assert [mixed.attention_of(layer) for layer in range(2)] == ["mta", "diff"]


def test_kernels_are_checked_only_where_a_layer_is_mta():
    mta = MTAConfig(pre_head_kernel_size=3)
    ModelConfig(num_heads=4, num_layers=2, attention=["diff", "talking_heads"], mta=mta)
    with pytest.raises(ValueError, match="pre_head_kernel_size 3"):
        ModelConfig(num_heads=4, num_layers=2, attention=["diff", "mta"], mta=mta)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"attention": "tramsformer"},
            "model.attention tramsformer: must be one of transformer, mta",
        ),
        ({"rope_layout": "halves"}, "model.rope_layout halves: must be one of interleaved"),
        ({"head_dim": 0}, "model.head_dim 0: must be at least 1"),
        ({"mlp_dim": -1}, "model.mlp_dim -1: must be at least 1"),
        ({"rope_theta": 0.0}, "model.rope_theta 0.0: must be above 0"),
        ({"norm_epsilon": -1.0}, "model.norm_epsilon -1.0: must be above 0"),
        (
            {"rope_scaling": RopeScaling(kind="linear", factor=0.0)},
            "model.rope_scaling.factor 0.0: must be above 0",
        ),
        (
            {"rope_scaling": RopeScaling(factor=2.0)},
            "model.rope_scaling.factor 2.0: has no effect with kind none",
        ),
        (
            {"rope_scaling": RopeScaling(kind="llama3", high_frequency_factor=1.0)},
            "model.rope_scaling.high_frequency_factor 1.0: must be above low_frequency_factor 1.0",
        ),
        (
            {"attention": "diff", "qk_norm": True},
            "model.qk_norm true: differential attention has none",
        ),
        (
            {"attention": ["mta", "diff"], "qkv_bias": True},
            "model.qkv_bias true: differential attention has none",
        ),
        (
            {"attention": "diff", "rope_scaling": RopeScaling(kind="linear", factor=2.0)},
            "model.rope_scaling.kind linear: differential attention has none",
        ),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(fields, message):
    with unchecked_types(), pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_init": "ones"}, "model.mta.kernel_init ones: must be one of identity"),
        ({"key_padding": "up"}, "model.mta.key_padding up: must be one of both, left, right"),
        ({"group_norm": "on"}, "model.mta.group_norm on: must be one of none, depth, gate"),
        (
            {"pre_kq_kernel_size": (6,)},
            "model.mta.pre_kq_kernel_size [6]: expected [queries, keys]",
        ),
    ],
)
def test_an_unknown_choice_is_named_with_those_there_are(fields, message):
    with unchecked_types(), pytest.raises(ValueError, match=re.escape(message)):
        MTAConfig(**fields)


def test_an_unknown_kind_of_rope_scaling_is_named_with_those_there_are():
    message = "model.rope_scaling.kind yarn: must be one of none, linear, llama3"
    with unchecked_types(), pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(rope_scaling=RopeScaling(kind="yarn"))
