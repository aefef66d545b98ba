import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.training.config import OptimizerConfig
from mta_jax.training.finetune_config import FinetuneConfig, LoraConfig
from mta_jax.training.optimizer import is_decayed, learning_rate_schedule, make_optimizer
from mta_jax.training.state import make_program
from tests.training.tiny import toy_config

CONFIG = OptimizerConfig(learning_rate=1.0, warmup_steps=10)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)],
)
def test_schedules_warm_up_then_decay_to_their_floor(schedule, middle, end):
    config = dataclasses.replace(CONFIG, schedule=schedule, min_ratio=0.1)
    rate = learning_rate_schedule(config, 110)
    assert float(rate(0)) == 0.0
    assert float(rate(5)) == pytest.approx(0.5)
    assert float(rate(10)) == pytest.approx(1.0)
    assert float(rate(60)) == pytest.approx(middle)
    assert float(rate(110)) == pytest.approx(end)


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert float(learning_rate_schedule(dataclasses.replace(CONFIG, warmup_steps=0), 10)(0)) == 1.0


def _params(kind):
    config = toy_config()
    program = make_program(
        dataclasses.replace(config, model=dataclasses.replace(config.model, attention=kind))
    )
    return program.initial_state()["params"]


@pytest.mark.parametrize("kind", ["mta", "diff", "transformer"])
def test_matrices_decay_and_mixing_kernels_norms_and_gates_do_not(kind):
    decayed = {
        jax.tree_util.keystr(path)
        for path, value in jax.tree_util.tree_flatten_with_path(is_decayed(_params(kind)))[0]
        if value
    }
    projections = ["query_proj", "key_proj", "value_proj", "out_proj"]
    expected = {f"['layers'][0]['attention']['{name}']['kernel']" for name in projections}
    expected |= {
        f"['layers'][0]['mlp']['{name}']['kernel']"
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    assert decayed == expected | {"['embedding']['embedding']"}


def test_norms_of_queries_and_keys_do_not_decay_and_low_rank_terms_do():
    config = toy_config(finetune=FinetuneConfig(train="norms", lora=LoraConfig(rank=2)))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, qk_norm=True))
    attention = is_decayed(make_program(config).abstract_state["params"])["layers"][0]["attention"]
    assert attention["query_norm"] == attention["key_norm"] == {"scale": False}
    assert attention["query_proj"] == {"dot_general": {"lora_a": True, "lora_b": True}}


def test_biases_of_projections_do_not_decay():
    config = toy_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, qkv_bias=True))
    attention = is_decayed(make_program(config).abstract_state["params"])["layers"][0]["attention"]
    for name in ("query_proj", "key_proj", "value_proj"):
        assert attention[name] == {"kernel": True, "bias": False}


@pytest.mark.parametrize("decay_all", [False, True])
def test_decay_of_the_kernels_is_a_choice(decay_all):
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", weight_decay=0.5, decay_all=decay_all
    )
    optimizer = make_optimizer(config, 10)
    params = _params("mta")
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(no_gradient, optimizer.init(params), params)
    kernel = params["layers"][0]["attention"]["pre_kq"]["kernel"]
    update = updates["layers"][0]["attention"]["pre_kq"]["kernel"]
    np.testing.assert_allclose(update, -0.05 * kernel if decay_all else 0 * kernel, atol=1e-7)


def test_clipping_bounds_the_gradient_that_adam_sees():
    params = {"mlp": jnp.zeros(4)}
    gradient = {"mlp": jnp.full(4, 100.0)}
    moments = {}
    for clip_norm in (1.0, None):
        optimizer = make_optimizer(OptimizerConfig(clip_norm=clip_norm), 10)
        _, state = optimizer.update(gradient, optimizer.init(params), params)
        first_moment = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4,))
        moments[clip_norm] = float(first_moment[0])
    assert moments[1.0] == pytest.approx(0.1 * 0.5)
    assert moments[None] == pytest.approx(0.1 * 100)
