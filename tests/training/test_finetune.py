import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util

from mta_jax.errors import ConfigError
from mta_jax.models import MTAConfig
from mta_jax.training import loop
from mta_jax.training.comparison import run
from mta_jax.training.dry_run import print_dry_run
from mta_jax.training.finetune_config import FinetuneConfig, LoraConfig
from mta_jax.training.loop import train
from mta_jax.training.saved_weights import read_weights
from mta_jax.training.state import make_program
from mta_jax.training.step import make_eval_step
from tests.training.tiny import MTA, toy_config

LORA = FinetuneConfig(
    train="mixing", lora=LoraConfig(rank=2, projections=["query_proj", "up_proj"])
)


def config_of(*, kind="mta", mta=MTA, **changes):
    config = toy_config(**changes)
    model = dataclasses.replace(config.model, attention=kind, mta=mta, attention_dropout=0.0)
    return dataclasses.replace(config, model=model)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A model of ordinary attention."""
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    return train(config_of(kind="transformer", num_steps=6), folder, name="toy")


def weights(folder):
    saved = read_weights(folder, "here")
    return saved.program, traverse_util.flatten_dict(jax.device_get(saved.params))


def interrupt_at(step, monkeypatch):
    """Asks the next run to end after a step."""
    monkeypatch.setattr(loop.Preemption, "stops_after", lambda _, now: now == step)


def test_a_retrofitted_run_begins_where_the_model_was_and_names_what_is_new(
    pretrained, tmp_path, capsys
):
    mta = dataclasses.replace(MTA, group_norm=None)
    # So small a rate that nothing moves.
    optimizer = dataclasses.replace(toy_config().optimizer, learning_rate=1e-12)
    config = config_of(
        mta=mta,
        num_steps=2,
        init_from=str(pretrained.folder),
        optimizer=optimizer,
        finetune=FinetuneConfig(retrofit=True),
    )
    result = train(config, tmp_path / "run", name="toy")
    output = capsys.readouterr().out
    # Two heads with 2 x 3 taps, and a group of two.
    assert "toy: with 16 new parameters: pre_kq, post_head in layer 0" in output
    assert "change" not in output
    before = pretrained.held_out["heldout"]["loss"]
    assert result.held_out["heldout"]["loss"] == pytest.approx(before, rel=1e-5)


def test_new_parameters_alone_are_trained_and_the_model_stays_to_the_bit(
    pretrained, tmp_path, capsys
):
    finetune = FinetuneConfig(retrofit=True, train="mixing")
    config = config_of(num_steps=4, init_from=str(pretrained.folder), finetune=finetune)
    train(config, tmp_path / "run", name="toy")
    assert (
        "they change what the model computes before it is trained, because of "
        "model.mta.group_norm gate\n"
    ) in capsys.readouterr().out
    _, before = weights(pretrained.folder)
    program, after = weights(tmp_path / "run")
    assert program.config.finetune == FinetuneConfig()
    for path, leaf in before.items():
        assert after[path].tobytes() == leaf.tobytes()
    new = {path[3] for path in after if path not in before}
    assert new == {"pre_kq", "post_head", "group_norm"}
    kernel = after["layers", 0, "attention", "post_head", "kernel"]
    assert np.any(kernel != np.eye(2))


def test_an_interrupted_finetuning_writes_the_same_bytes(pretrained, tmp_path, monkeypatch):
    optimizer = dataclasses.replace(toy_config().optimizer, ema_decay=0.5)
    config = config_of(
        num_steps=8,
        init_from=str(pretrained.folder),
        finetune=dataclasses.replace(LORA, retrofit=True),
        optimizer=optimizer,
    )
    whole = train(config, tmp_path / "whole", name="toy")
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        with pytest.raises(loop.PreemptedError, match="step 3 of 8 is saved"):
            train(config, tmp_path / "run", name="toy")
    resumed = train(config, tmp_path / "run", name="toy")
    contents = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "run")]
    assert contents[0] == contents[1]
    for a, b in zip(*map(jax.tree.leaves, (whole.params, resumed.params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_weights_of_low_rank_training_are_those_of_the_model_alone(pretrained, tmp_path):
    config = config_of(
        num_steps=4,
        init_from=str(pretrained.folder),
        finetune=dataclasses.replace(LORA, retrofit=True),
    )
    result = train(config, tmp_path / "run", name="toy")
    saved = read_weights(tmp_path / "run", "here")
    names = traverse_util.flatten_dict(saved.params)
    assert not any("lora_a" in path for path in names)
    batch = next(iter(result.data.held_out["heldout"].batches))
    expected = make_eval_step(result.program)(result.params, batch)["nll"]
    got = make_eval_step(saved.program)(saved.params, batch)["nll"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    # Another run can begin with them, and train all of it.
    config = config_of(num_steps=2, init_from=str(tmp_path / "run"), seed=5)
    assert train(config, tmp_path / "next", name="toy").rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"group_norm.gate.bias is missing there and \(1,\) here; finetune.retrofit true adds"),
        (
            {"finetune": FinetuneConfig(retrofit=True), "kind": "transformer"},
            r"finetune.retrofit true: the model of init_from .* has all that this one has",
        ),
        (
            {"finetune": FinetuneConfig(retrofit=True), "kind": "diff"},
            r"out_proj.kernel is \(2, 8, 16\) there and \(1, 16, 16\) here$",
        ),
    ],
)
def test_only_what_mixing_adds_may_be_missing(pretrained, tmp_path, changes, message):
    config = config_of(init_from=str(pretrained.folder), run_dir=str(tmp_path / "run"), **changes)
    with pytest.raises(ConfigError, match=message):
        run(config)
    assert not (tmp_path / "run").exists()


def test_another_rotary_layout_is_refused(pretrained, tmp_path):
    config = config_of(kind="transformer", init_from=str(pretrained.folder))
    model = dataclasses.replace(config.model, rope_layout="half_split")
    config = dataclasses.replace(config, model=model)
    with pytest.raises(ConfigError, match=r"model.rope_layout is interleaved there and half_s"):
        train(config, tmp_path / "run", name="toy")


def test_a_part_is_not_trained_beside_random_weights(tmp_path):
    config = config_of(finetune=FinetuneConfig(train="mixing"))
    with pytest.raises(ConfigError, match=r"finetune.train mixing: the other parameters would st"):
        train(config, tmp_path / "run", name="toy")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_how_many_parameters_are_trained(tmp_path, capsys):
    config = config_of(run_dir=str(tmp_path), finetune=FinetuneConfig(train="mixing"))
    print_dry_run(config)
    rows = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if "│" in line
    ]
    trained = {row[0]: row[-1] for row in rows}
    assert trained["key-query kernels"] == "12"
    assert trained["feed-forward"] == "0"
    # Kernels of 2 x 2 x 3 and 2 x 2, a norm of 8 and a gate of 8 with a bias.
    assert trained["total"] == str(12 + 4 + 17)
    state = make_program(config).abstract_state
    total = sum(leaf.size for leaf in jax.tree.leaves([state["params"], state["frozen"]]))
    assert [row[1] for row in rows if row[0] == "total"] == [f"{total:,}"]


def test_a_checkpoint_of_a_mixed_model_can_be_given_more(tmp_path):
    """Talking heads have head mixing; multi-token attention adds the rest."""
    mta = MTAConfig(
        pre_kq_kernel_size=(2, 3), post_kq_kernel_size=None, group_norm=None, kq_layers=[0]
    )
    first = train(config_of(kind="talking_heads", num_steps=2), tmp_path / "first", name="toy")
    finetune = FinetuneConfig(retrofit=True, train="mixing")
    config = config_of(mta=mta, num_steps=2, init_from=str(first.folder), finetune=finetune)
    assert train(config, tmp_path / "run", name="toy").rows
