import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.errors import UserError
from mta_jax.training import loop
from mta_jax.training.config import CheckpointConfig, SafetyConfig
from mta_jax.training.loop import train
from mta_jax.training.safety import choose, initial_safety, judge
from mta_jax.training.saved_weights import read_weights
from tests.training.tiny import toy_config


def judged(config, losses, grad_norms=None):
    """Whether each of a series of steps is taken, and what is remembered at the end."""
    safety, taken = initial_safety(), []
    for step, loss in enumerate(losses, 1):
        norm = 1.0 if grad_norms is None else grad_norms[step - 1]
        is_taken, safety = judge(
            config,
            safety,
            jnp.asarray(step),
            loss=jnp.asarray(loss),
            grad_norm=jnp.asarray(norm),
            update_norm=jnp.asarray(1.0),
        )
        taken.append(bool(is_taken))
    return taken, {name: float(value) for name, value in safety.items()}


def test_after_the_step_that_stops_none_is_taken():
    taken, safety = judged(SafetyConfig(), [1.0, np.nan, 1.0, np.inf])
    assert taken == [True, False, False, False]
    assert (safety["stopped_at"], safety["num_skipped"]) == (2, 1)


def test_bad_steps_are_skipped_and_counted():
    taken, safety = judged(
        SafetyConfig(on_bad_step="skip"), [1.0, np.nan, 1.0, 1.0], [1.0, 1.0, np.inf, 1.0]
    )
    assert taken == [True, False, False, True]
    assert (safety["stopped_at"], safety["num_skipped"], safety["num_in_a_row"]) == (0, 2, 0)
    assert np.isfinite(safety["loss_sum"])


def test_skipping_gives_up():
    config = SafetyConfig(on_bad_step="skip", max_skips=2)
    taken, safety = judged(config, [np.nan, 1.0, np.nan, np.nan, 1.0])
    assert taken == [False, True, False, False, False]
    assert safety["stopped_at"] == 4


@pytest.mark.parametrize("ratio", [None, 2.0])
def test_spikes_are_bad_steps_where_a_ratio_says_so(ratio):
    config = SafetyConfig(on_bad_step="skip", spike_ratio=ratio)
    losses = [3.0] * 25 + [5.9, 7.0, 3.0]
    taken, safety = judged(config, losses)
    assert taken == [True] * 26 + [ratio is None, True]
    # What is known of few steps is no measure.
    assert judged(config, [1.0, 100.0])[0] == [True, True]
    if ratio:
        assert safety["loss_sum"] / safety["loss_weight"] == pytest.approx(3.1, abs=0.1)


def test_a_step_that_is_not_taken_changes_no_bit():
    old, new = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([jnp.nan, 3.0])}
    np.testing.assert_array_equal(choose(jnp.array(False), new, old)["a"], old["a"])
    np.testing.assert_array_equal(choose(jnp.array(True), new, old)["a"], new["a"])


CONFIG = toy_config(num_steps=12, checkpoint=CheckpointConfig(every=4, keep=3))
BAD_STEP = 7


@pytest.fixture
def bad_batch(monkeypatch):
    """Makes the batch of one step give no finite loss."""
    original = loop.make_train_step

    def make_train_step(program):
        inner = original(program)

        def train_step(state, batch):
            if int(state["step"]) == BAD_STEP - 1:
                weights = np.full_like(batch["targets_weights"], np.nan)
                batch = {**batch, "targets_weights": weights}
            return inner(state, batch)

        return train_step

    monkeypatch.setattr(loop, "make_train_step", make_train_step)


def skipping(config):
    return dataclasses.replace(config, safety=SafetyConfig(on_bad_step="skip"))


@pytest.mark.usefixtures("bad_batch")
def test_a_bad_step_stops_the_run_with_its_state_and_batch_saved(tmp_path):
    with pytest.raises(UserError) as error:
        train(CONFIG, tmp_path / "run", name="toy")
    message = str(error.value)
    assert "loss is nan at step 7" in message
    assert "checkpoint 6" in message
    assert "--safety.on_bad_step skip" in message
    report = json.loads((tmp_path / "run" / "bad_step" / "report.json").read_text())
    assert (report["step"], report["loss"]) == (7, "nan")
    saved = read_weights(tmp_path / "run", "checkpoint")
    assert saved.step == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params))
    with np.load(tmp_path / "run" / "bad_step" / "batch.npz") as batch:
        bad_inputs = batch["inputs"]

    # The batch in the file is that of the step: the seventh.
    data = loop.load_data(CONFIG.data, seed=CONFIG.seed, held_out_rows=4)
    position = iter(data.train)
    batches = [next(position) for _ in range(BAD_STEP)]
    position.close()
    np.testing.assert_array_equal(bad_inputs, batches[-1]["inputs"])

    # Again, it is the same step and batch; with other safety, the run goes on.
    with pytest.raises(UserError, match="loss is nan at step 7"):
        train(CONFIG, tmp_path / "run", name="toy")
    again = json.loads((tmp_path / "run" / "bad_step" / "report.json").read_text())
    assert again == report
    result = train(skipping(CONFIG), tmp_path / "run", name="toy")
    assert [row["skipped_steps"] for row in result.rows if "loss" in row][-1] == 1


@pytest.mark.usefixtures("bad_batch")
def test_a_run_asked_to_end_behind_a_bad_step_saves_the_state_before_it(tmp_path, monkeypatch):
    config = dataclasses.replace(
        CONFIG, log_every=12, evaluate_every=12, checkpoint=CheckpointConfig(every=12)
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop.Preemption, "stops_after", lambda _, step: step == BAD_STEP + 1)
        with pytest.raises(UserError, match=f"loss is nan at step {BAD_STEP}"):
            train(config, tmp_path / "run", name="toy")
    assert read_weights(tmp_path / "run", "checkpoint").step == BAD_STEP - 1
    train(skipping(config), tmp_path / "run", name="toy")


@pytest.mark.usefixtures("bad_batch")
def test_a_skipped_step_leaves_everything_as_it_was(tmp_path):
    result = train(skipping(CONFIG), tmp_path / "run", name="toy")
    rows = [row for row in result.rows if "loss" in row]
    assert [row["skipped_steps"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
