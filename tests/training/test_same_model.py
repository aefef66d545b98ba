import dataclasses

import pytest

from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.ops.rope import RopeScaling
from mta_jax.training.same_model import allowed_differences, forbidden_difference

# What gives parameters other names or shapes, what only says how they begin, and how the same
# is computed.
BY_SHAPE = {
    *("vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"),
    *("attention", "mta", "qkv_bias", "qk_norm", "tie_embeddings"),
}
MTA_BY_SHAPE = {
    *("pre_kq_kernel_size", "post_kq_kernel_size", "kq_layers"),
    *("pre_head_kernel_size", "post_head_kernel_size"),
}
FREE = {"attention_implementation", "remat", "scan_layers", "dtype"}

LLAMA3 = RopeScaling(kind="llama3", factor=8.0)
REFUSED = {
    "rope_layout": ({"rope_layout": "half_split"}, "interleaved there and half_split here"),
    "norm_epsilon": ({"norm_epsilon": 1e-6}, "1e-05 there and 1e-06 here"),
}
MTA_REFUSED = {
    "key_padding": ({"key_padding": "left"}, "both there and left here"),
    "group_norm": ({"group_norm": "depth"}, "none there and depth here"),
}
ALLOWED = {
    "rope_theta": ({"rope_theta": 5e5}, "100000.0 there and 500000.0 here"),
    "rope_scaling": (
        {"rope_scaling": RopeScaling(kind="linear", factor=2.0)},
        "none there and linear factor 2.0 here",
    ),
    "attention_dropout": ({"attention_dropout": 0.1}, "0.0 there and 0.1 here"),
}
MODEL = ModelConfig(mta=MTAConfig(group_norm="none"))


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_makes_another_model_is_refused_by_name(name):
    changes, message = REFUSED[name]
    here = dataclasses.replace(MODEL, **changes)
    assert forbidden_difference(MODEL, here) == f"model.{name} is {message}"
    assert allowed_differences(MODEL, here) == []


@pytest.mark.parametrize("name", MTA_REFUSED)
def test_a_setting_that_makes_other_multi_token_attention_is_refused_by_name(name):
    changes, message = MTA_REFUSED[name]
    here = dataclasses.replace(MODEL, mta=dataclasses.replace(MODEL.mta, **changes))
    assert forbidden_difference(MODEL, here) == f"model.mta.{name} is {message}"


@pytest.mark.parametrize("name", ALLOWED)
def test_a_setting_that_may_change_on_purpose_is_said(name):
    changes, message = ALLOWED[name]
    here = dataclasses.replace(MODEL, **changes)
    assert forbidden_difference(MODEL, here) is None
    assert allowed_differences(MODEL, here) == [f"model.{name} is {message}"]


def test_how_the_same_is_computed_is_free():
    here = dataclasses.replace(
        MODEL, dtype="bfloat16", remat="full", scan_layers=True, attention_implementation="xla"
    )
    assert forbidden_difference(MODEL, here) is None
    assert allowed_differences(MODEL, here) == []


def test_settings_without_effect_make_no_difference():
    here = dataclasses.replace(MODEL, rope_scaling=RopeScaling(original_length=64))
    assert allowed_differences(MODEL, here) == []
    assert allowed_differences(MODEL, dataclasses.replace(MODEL, rope_scaling=LLAMA3)) == [
        "model.rope_scaling is none there and llama3 factor 8.0 low_frequency_factor 1.0 "
        "high_frequency_factor 4.0 original_length 8192 here"
    ]
    no_kernels = dataclasses.replace(MODEL.mta, pre_kq_kernel_size=None, post_kq_kernel_size=None)
    there = dataclasses.replace(MODEL, mta=no_kernels)
    left = dataclasses.replace(no_kernels, key_padding="left")
    assert forbidden_difference(there, dataclasses.replace(MODEL, mta=left)) is None
    ordinary = dataclasses.replace(MODEL, attention="transformer")
    depth = dataclasses.replace(ordinary, mta=MTAConfig(group_norm="depth", key_padding="right"))
    assert forbidden_difference(ordinary, depth) is None


def test_every_setting_of_a_model_is_known():
    """A new one must be refused, said, or known to change no function of the parameters."""
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    assert names == BY_SHAPE | FREE | set(REFUSED) | set(ALLOWED)
    names = {field.name for field in dataclasses.fields(MTAConfig)}
    assert names == MTA_BY_SHAPE | {"kernel_init"} | set(MTA_REFUSED)
