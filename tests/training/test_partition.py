import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mta_jax.models.flops import flops_per_token
from mta_jax.models.parts import is_mixing
from mta_jax.training.finetune_config import FinetuneConfig, LoraConfig
from mta_jax.training.memory import num_bytes
from mta_jax.training.partition import (
    partition,
    together,
    training_flops,
    without_low_rank,
)
from mta_jax.training.state import evaluated, make_program
from mta_jax.training.step import make_eval_step, make_train_step
from tests.training.tiny import toy_config

CHOICES = {
    "mixing": FinetuneConfig(train="mixing"),
    "two parts": FinetuneConfig(train=["norms", "mlp"]),
    "low rank": FinetuneConfig(train="none", lora=LoraConfig(rank=2)),
    "both": FinetuneConfig(
        train="mixing", lora=LoraConfig(rank=3, projections=["query_proj", "down_proj"])
    ),
}
every_choice = pytest.mark.parametrize("name", CHOICES)


def config_of(name, **changes):
    config = toy_config(finetune=CHOICES[name], accumulate=2, **changes)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=0, ema_decay=0.5)
    return dataclasses.replace(config, optimizer=optimizer)


def batch_of(program, *, seed=0):
    tokens = np.random.default_rng(seed).integers(0, program.config.model.vocab_size, size=(4, 22))
    return {
        "inputs": jnp.asarray(tokens[:, :-1]),
        "targets": jnp.asarray(tokens[:, 1:]),
        "targets_weights": jnp.ones((4, 21), jnp.float32),
    }


def flat(tree):
    return traverse_util.flatten_dict(jax.device_get(tree))


def is_chosen(path, finetune):
    """Said again, by name: what is to be trained."""
    names = set(path)
    if {"lora_a", "lora_b"} & names:
        return True
    if is_mixing(path):
        return "mixing" in finetune.parts
    if {"attention_norm", "mlp_norm", "final_norm"} & names:
        return "norms" in finetune.parts
    return "mlp" in names and "mlp" in finetune.parts


@every_choice
def test_only_what_is_chosen_changes_and_the_rest_stays_to_the_bit(name):
    program = make_program(config_of(name))
    before = flat(evaluated(program.initial_state()))
    state, train_step = program.initial_state(), make_train_step(program)
    for seed in range(3):
        state, _ = train_step(state, batch_of(program, seed=seed))
    after = flat(together(state["params"], state["frozen"]))
    assert set(after) == set(before)
    for path, leaf in after.items():
        same = leaf.tobytes() == before[path].tobytes()
        assert same != is_chosen(path, program.config.finetune), path
    ema = flat(evaluated(state))
    for path, leaf in ema.items():
        if not is_chosen(path, program.config.finetune):
            assert leaf.tobytes() == before[path].tobytes()
    assert any(np.any(ema[path] != after[path]) for path in ema)


@every_choice
def test_the_optimiser_has_state_of_what_is_trained_and_of_nothing_else(name):
    state = make_program(config_of(name)).abstract_state
    trained = num_bytes(state["params"])
    assert trained
    assert num_bytes(state["frozen"])
    # Two moments, and counters of a few bytes.
    assert 2 * trained <= num_bytes(state["opt_state"]) <= 2 * trained + 16
    assert num_bytes(state["ema"]) == trained


def test_training_all_keeps_nothing_apart():
    program = make_program(toy_config())
    assert set(program.abstract_state) == {"params", "opt_state", "step", "safety"}


def test_a_step_on_a_part_is_the_step_on_all_restricted_to_it():
    changes = {"clip_norm": None, "weight_decay": 0.1, "warmup_steps": 0}
    config = toy_config()
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, **changes),
        model=dataclasses.replace(config.model, attention_dropout=0.0),
    )
    part = dataclasses.replace(config, finetune=FinetuneConfig(train=["mixing", "norms"]))
    after = {}
    for name, run in {"all": config, "part": part}.items():
        program = make_program(run)
        state, _ = make_train_step(program)(program.initial_state(), batch_of(program))
        after[name] = flat(state["params"])
    assert 0 < len(after["part"]) < len(after["all"])
    for path, leaf in after["part"].items():
        np.testing.assert_allclose(leaf, after["all"][path], rtol=1e-4, atol=1e-6)


def scores(config, params):
    program = make_program(config)
    return np.asarray(make_eval_step(program)(params, batch_of(program))["nll"])


def test_low_rank_terms_start_as_nothing_and_can_be_merged_after_training():
    config = config_of("both")
    alone = dataclasses.replace(config, finetune=FinetuneConfig())
    program = make_program(config)
    state = program.initial_state()
    params = evaluated(state)
    base = make_program(alone).initial_params()
    start = scores(config, params)
    np.testing.assert_array_equal(start, scores(alone, base))
    train_step = make_train_step(program)
    for seed in range(3):
        state, _ = train_step(state, batch_of(program, seed=seed))
    params = evaluated(state)
    trained = scores(config, params)
    assert np.abs(trained - start).max() > 0.01
    together_again = scores(alone, without_low_rank(params, config.finetune))
    np.testing.assert_allclose(together_again, trained, rtol=1e-5, atol=1e-5)


def test_parameters_are_divided_and_put_together_again():
    params = make_program(toy_config()).initial_params()
    trained, frozen = partition(params, CHOICES["mixing"])
    assert not set(flat(trained)) & set(flat(frozen))
    again = together(trained, frozen)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (again, params)), strict=True))
    other = {"embedding": {"embedding": np.zeros(1)}}
    assert together(params, other)["embedding"] == other["embedding"]


def test_flops_leave_out_gradients_of_weights_that_are_not_trained():
    def flops(name):
        config = make_program(toy_config(finetune=CHOICES[name])).config
        return training_flops(config), flops_per_token(config.model, config.data.row_length)

    got, count = flops("mixing")
    matrices = count.projections + count.feed_forward + count.output_layer
    assert got == count.training - matrices
    got, count = flops("two parts")
    assert got == count.training - count.projections - count.output_layer
    all_trained = make_program(toy_config()).config
    assert training_flops(all_trained) == count.training
