import dataclasses

import jax
import numpy as np
import pytest

from mta_jax.command_line.plain import from_plain, plain
from mta_jax.data import BlockSearchConfig
from mta_jax.errors import ConfigError, UserError
from mta_jax.training.config import CheckpointConfig, TrainConfig
from mta_jax.training.loop import train
from mta_jax.training.saved_weights import read_weights
from tests.training.tiny import MTA, text_config, toy_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return train(toy_config(checkpoint=CheckpointConfig(every=4, keep=3)), folder, name="toy")


def equal(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_weights_are_those_of_the_newest_checkpoint_or_the_named_one(finished):
    saved = read_weights(finished.folder, "checkpoint")
    assert saved.step == 12
    assert equal(saved.params, finished.params)
    assert saved.program.config.model == finished.program.config.model
    earlier = read_weights(finished.folder / "checkpoints" / "8", "checkpoint")
    assert earlier.step == 8
    assert not equal(earlier.params, finished.params)


def test_a_moving_average_is_what_is_evaluated(tmp_path):
    optimizer = dataclasses.replace(toy_config().optimizer, ema_decay=0.5)
    result = train(toy_config(optimizer=optimizer), tmp_path / "run", name="toy")
    saved = read_weights(tmp_path / "run", "checkpoint")
    assert equal(saved.params, result.params)
    plain_result = train(toy_config(), tmp_path / "plain", name="toy")
    # The same training, but another average of it.
    losses = [[row["loss"] for row in r.rows if "loss" in row] for r in (result, plain_result)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert not equal(result.params, plain_result.params)


def test_a_run_begins_with_the_weights_of_another(finished, tmp_path):
    config = toy_config(num_steps=2, evaluate_every=2, init_from=str(finished.folder), seed=1)
    started = train(config, tmp_path / "run", name="toy")
    from_scratch = train(
        dataclasses.replace(config, init_from=None), tmp_path / "scratch", name="toy"
    )
    assert started.rows[0]["loss"] < from_scratch.rows[0]["loss"]
    # The schedule begins anew.
    assert started.rows[0]["learning_rate"] == from_scratch.rows[0]["learning_rate"]


def test_settings_may_change_where_shapes_do_not_and_the_run_says_it(finished, tmp_path, capsys):
    block_search = BlockSearchConfig(
        block_size=3, sequence_length=41, num_train_samples=20, num_heldout_samples=10
    )
    config = toy_config(num_steps=2, init_from=str(finished.folder))
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, rope_theta=5e5),
        data=dataclasses.replace(config.data, block_search=block_search),
    )
    assert train(config, tmp_path / "run", name="toy").rows
    line = "toy: model.rope_theta is 100000.0 there and 500000.0 here\n"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_epsilon": 1e-6}, r"model.norm_epsilon is 1e-05 there and 1e-06 here$"),
        (
            {"mta": dataclasses.replace(MTA, key_padding="left")},
            r"its model is another one: model.mta.key_padding is both there and left here$",
        ),
    ],
)
def test_a_model_that_computes_something_else_is_refused(finished, tmp_path, changes, message):
    config = toy_config(num_steps=2, init_from=str(finished.folder))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run", name="toy")


def test_another_model_is_refused_by_its_first_difference(finished, tmp_path):
    config = toy_config(init_from=str(finished.folder))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, mlp_dim=48))
    with pytest.raises(UserError, match=r"mlp\..* is \(32, 16\) there and \(48, 16\) here"):
        train(config, tmp_path / "run", name="toy")


def test_another_tokenizer_is_refused(finished, tmp_path):
    config = text_config(init_from=str(finished.folder))
    model = dataclasses.replace(config.model, vocab_size=300)
    first = train(text_config(model=model), tmp_path / "bytes", name="lm")
    checkpoint = first.folder / "checkpoints" / "4"
    assert read_weights(checkpoint, "checkpoint").tokenizer == "byte"
    toy = toy_config(init_from=str(checkpoint))
    toy = dataclasses.replace(toy, model=dataclasses.replace(toy.model, vocab_size=300))
    with pytest.raises(UserError, match="another tokenizer than that of this run, "):
        train(toy, tmp_path / "run", name="toy")


def test_what_is_no_checkpoint_is_said(finished, tmp_path):
    with pytest.raises(UserError, match=r"init_from .*nowhere: no such folder; expected a run"):
        read_weights(tmp_path / "nowhere", "init_from")
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_weights(tmp_path, "init_from")
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="not a checkpoint of a run"):
        read_weights(tmp_path / "run", "init_from")


def test_a_damaged_checkpoint_is_said(tmp_path):
    result = train(toy_config(num_steps=4), tmp_path / "run", name="toy")
    folder = result.folder / "checkpoints" / "4" / "state"
    (folder / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoints/4: cannot be read"):
        read_weights(tmp_path / "run", "checkpoint")


@pytest.mark.parametrize("config", [toy_config(), text_config(), TrainConfig()])
def test_a_config_comes_back_from_plain_values(config):
    assert from_plain(TrainConfig, plain(config), "here") == config


def test_what_is_no_config_is_said():
    with pytest.raises(UserError, match=r"here: not the settings of a run .*'colour'"):
        from_plain(TrainConfig, {"colour": "red"}, "here")
    with pytest.raises(UserError, match=r"here: not the settings of a run .*num_steps 0"):
        from_plain(TrainConfig, {"num_steps": 0}, "here")
    # Newer settings have their defaults.
    assert from_plain(TrainConfig, {"seed": 3}, "here") == TrainConfig(seed=3)
