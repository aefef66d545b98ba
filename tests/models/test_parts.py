import dataclasses

import pytest
from flax import nnx, traverse_util

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from mta_jax.models.parts import changed_by_mixing, count_by_part, is_mixing, spell_paths

CONFIG = ModelConfig(
    vocab_size=16,
    num_layers=4,
    embed_dim=16,
    num_heads=2,
    mlp_dim=24,
    mta=MTAConfig(kq_layers=[0, 2], pre_kq_kernel_size=(2, 3)),
    tie_embeddings=False,
)


def shapes_of(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def names_of(**changes):
    return [path for path in traverse_util.flatten_dict(shapes_of(**changes)) if is_mixing(path)]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("transformer", set()),
        ("talking_heads", {"head-mixing kernels"}),
        ("mta", {"key-query kernels", "head-mixing kernels", "group norm and gates"}),
        ("diff", {"group norm and gates", "differential lambdas"}),
    ],
)
def test_every_parameter_has_a_part(kind, parts):
    common = {"embedding", "output layer", "attention projections", "feed-forward", "norms"}
    assert set(count_by_part(shapes_of(attention=kind))) == common | parts


def test_norms_of_queries_and_keys_are_norms():
    less, more = (count_by_part(shapes_of(qk_norm=qk_norm)) for qk_norm in (False, True))
    # Four layers, heads of 8.
    assert more == less | {"norms": less["norms"] + 4 * 2 * 8}


def test_a_part_counts_its_parameters():
    counts = count_by_part(shapes_of())
    # Two layers, two heads, 2 x 3 and 6 x 11 taps.
    assert counts["key-query kernels"] == 2 * 2 * (2 * 3 + 6 * 11)
    # Four layers, before and after the softmax, all heads with all.
    assert counts["head-mixing kernels"] == 4 * 2 * 2 * 2
    # Norm, gate and its bias.
    assert counts["group norm and gates"] == 4 * (8 + 8 + 1)


def test_parameters_are_spelled_by_module_and_layers():
    assert spell_paths(names_of()) == (
        "pre_kq, post_kq in layers 0, 2; pre_head, post_head, group_norm in layers 0 to 3"
    )
    mta = dataclasses.replace(CONFIG.mta, kq_layers=[1], group_norm=None)
    mta = dataclasses.replace(mta, pre_head_kernel_size=None, post_head_kernel_size=None)
    assert spell_paths(names_of(mta=mta)) == "pre_kq, post_kq in layer 1"


@pytest.mark.parametrize(
    ("mta", "settings"),
    [
        ({}, ["model.mta.group_norm gate"]),
        ({"group_norm": None}, []),
        (
            {"kernel_init": "constant", "group_norm": "depth"},
            ["model.mta.kernel_init constant", "model.mta.group_norm depth"],
        ),
    ],
)
def test_settings_that_change_the_function_are_named(mta, settings):
    config = dataclasses.replace(CONFIG, mta=dataclasses.replace(CONFIG.mta, **mta))
    assert changed_by_mixing(config, names_of(mta=config.mta)) == settings
