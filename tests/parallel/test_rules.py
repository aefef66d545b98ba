import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.parallel.mesh import AXES
from mta_jax.parallel.rules import PARAMETERS, num_parts, spec_of, state_shardings
from mta_jax.training.config import OptimizerConfig
from mta_jax.training.state import make_program
from tests.training.tiny import text_config

SIZES = {"data": 2, "fsdp": 2, "context": 1, "tensor": 4}

# Numbers that no other axis of a parameter has.
WIDTH, HEADS, KV_HEADS, MLP, VOCABULARY = 96, 12, 4, 88, 520
MODEL = ModelConfig(
    num_layers=2,
    embed_dim=WIDTH,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=16,
    mlp_dim=MLP,
    vocab_size=VOCABULARY,
    tie_embeddings=False,
    mta=MTAConfig(pre_kq_kernel_size=(4, 5), post_kq_kernel_size=(3, 3)),
)


@pytest.mark.parametrize(
    ("axes", "shape", "spec"),
    [
        (("vocab", "embed"), (8, 6), PartitionSpec(("tensor",), ("fsdp",))),
        (("batch", "length"), (8, 6), PartitionSpec(("data", "fsdp"), None)),
        # Neither 6 by 4 nor 5 by 2.
        (("vocab", "embed"), (6, 6), PartitionSpec(None, ("fsdp",))),
        (("vocab", "embed"), (8, 5), PartitionSpec(("tensor",), None)),
        # 2 of the 4 parts that data and fsdp make together would be possible.
        (("batch", "length"), (6, 6), PartitionSpec(None, None)),
        ((None, "heads"), (8, 8), PartitionSpec(None, ("tensor",))),
    ],
)
def test_an_axis_is_split_where_its_parts_are_equal(axes, shape, spec):
    assert spec_of(axes, shape, SIZES) == spec


def test_parts_are_counted_over_all_axes_of_a_rule():
    assert num_parts("batch", SIZES) == 4
    assert num_parts("query", SIZES) == 4
    assert num_parts("length", SIZES) == 1


@pytest.mark.parametrize("kind", ["transformer", "mta", "talking_heads", "diff"])
def test_no_large_array_of_a_state_stays_whole(kind):
    optimizer = OptimizerConfig(warmup_steps=0, ema_decay=0.9)
    heads = {"num_kv_heads": HEADS} if kind == "talking_heads" else {}
    model = dataclasses.replace(MODEL, attention=kind, **heads)
    state = make_program(text_config(model=model, optimizer=optimizer)).abstract_state
    # Nothing is computed, so that one device can stand for all.
    devices = np.array(jax.devices()[:1] * 8).reshape(1, 2, 2, 2)
    shardings = state_shardings(state, Mesh(devices, AXES))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    num_large = 0
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        if leaf.size > 2048:
            num_large += 1
            split = {"fsdp", "tensor"} & set(sharding.spec)
            assert len(split) == 2, jax.tree_util.keystr(path)
    # Embedding and head, and seven in each layer; with two moments and the average of each.
    assert num_large == 4 * (2 + 2 * 7)


@pytest.mark.parametrize("kind", ["transformer", "mta", "talking_heads", "diff"])
def test_every_parameter_with_an_axis_that_is_split_is_in_the_table(kind):
    heads = {"num_kv_heads": HEADS} if kind == "talking_heads" else {}
    model = dataclasses.replace(MODEL, attention=kind, **heads)
    params = make_program(text_config(model=model)).abstract_state["params"]
    found = set()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = tuple(str(getattr(entry, "key", entry)) for entry in path[-2:])
        if leaf.ndim >= 2 and {WIDTH, MLP, VOCABULARY} & set(leaf.shape):
            assert len(PARAMETERS[names]) == leaf.ndim, names
            found.add(names)
    assert found == set(PARAMETERS)
