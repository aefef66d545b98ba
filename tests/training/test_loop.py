import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from mta_jax.errors import ConfigError, PreemptedError, UserError
from mta_jax.training import loop
from mta_jax.training.comparison import result_table, run
from mta_jax.training.config import CheckpointConfig, OptimizerConfig
from mta_jax.training.loop import train
from mta_jax.training.records import read_rows
from tests.training.tiny import text_config, toy_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return train(toy_config(), folder, name="toy")


class StopError(Exception):
    """Stands for whatever ends a process."""


def interrupt_at(step, monkeypatch):
    """Ends the next run as soon as it asks for the batch of a step."""
    original = loop.make_train_step

    def make_train_step(program):
        inner = original(program)

        def train_step(state, batch):
            if int(state["step"]) == step:
                raise StopError
            return inner(state, batch)

        return train_step

    monkeypatch.setattr(loop, "make_train_step", make_train_step)


def test_a_run_interrupted_twice_writes_the_same_bytes(finished, tmp_path, monkeypatch):
    for step in (5, 9):
        with monkeypatch.context() as patch:
            interrupt_at(step, patch)
            with pytest.raises(StopError):
                train(toy_config(), tmp_path / "run", name="toy")
    resumed = train(toy_config(), tmp_path / "run", name="toy")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert metrics == (finished.folder / "metrics.jsonl").read_bytes()
    for got, want in zip(
        jax.tree.leaves(resumed.params), jax.tree.leaves(finished.params), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_a_run_asked_to_end_twice_between_two_lines_writes_the_same_bytes(tmp_path, monkeypatch):
    config = toy_config(log_every=6, checkpoint=CheckpointConfig(every=6))
    train(config, tmp_path / "whole", name="toy")
    for step in (2, 4):
        with monkeypatch.context() as patch:
            patch.setattr(loop.Preemption, "stops_after", lambda _, now, step=step: now == step)
            with pytest.raises(PreemptedError, match=f"step {step} of 12 is saved"):
                train(config, tmp_path / "run", name="toy")
    train(config, tmp_path / "run", name="toy")
    contents = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "run")]
    assert contents[0] == contents[1]


def test_a_damaged_last_checkpoint_costs_steps_and_nothing_else(
    finished, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        interrupt_at(11, patch)
        with pytest.raises(StopError):
            train(toy_config(), tmp_path / "run", name="toy")
    state = tmp_path / "run" / "checkpoints" / "8" / "state"
    (state / "manifest.ocdbt").write_bytes(b"")
    train(toy_config(), tmp_path / "run", name="toy")
    output = capsys.readouterr().out
    assert "checkpoints/8 is damaged and passed over" in output
    assert "continuing from step 4" in output
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert metrics == (finished.folder / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_read_and_not_trained_again(finished, monkeypatch):
    before = (finished.folder / "metrics.jsonl").read_bytes()
    interrupt_at(12, monkeypatch)
    again = train(toy_config(), finished.folder, name="toy")
    assert again.held_out == finished.held_out
    assert (finished.folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("file", ["metrics.jsonl", "timing.jsonl"])
def test_damaged_records_of_a_finished_run_are_named(finished, file):
    path = finished.folder / file
    before = path.read_bytes()
    path.write_bytes(before[20:])
    try:
        with pytest.raises(UserError, match=f"{file} has"):
            train(toy_config(), finished.folder, name="toy")
    finally:
        path.write_bytes(before)


def test_other_data_under_the_same_settings_is_refused(finished, monkeypatch):
    original = loop.load_data

    def load_other_data(*args, **options):
        return dataclasses.replace(
            original(*args, **options), summary={"samples": {"digest": "other"}}
        )

    monkeypatch.setattr(loop, "load_data", load_other_data)
    with pytest.raises(
        ConfigError, match=r"data: not what the run in .* began with: samples are not the same"
    ):
        train(toy_config(), finished.folder, name="toy")


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "figures_of", lambda *_, **__: {"loss": math.nan, "error": 1.0})
    with pytest.raises(UserError, match="heldout loss is nan at step 6"):
        train(toy_config(), tmp_path / "run", name="toy")
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_another_seed_is_another_run(finished, tmp_path):
    other = train(toy_config(seed=1), tmp_path / "run", name="toy")
    assert other.rows[0]["loss"] != finished.rows[0]["loss"]


def test_the_run_folder_of_another_run_is_refused(finished):
    with pytest.raises(ConfigError, match=r"seed is 0 there and 5 here"):
        train(toy_config(seed=5), finished.folder, name="toy")


def test_rows_are_means_at_fixed_steps_with_evaluations_between(finished):
    losses = [row["step"] for row in finished.rows if "loss" in row]
    errors = [row["step"] for row in finished.rows if "heldout/error" in row]
    assert losses == [2, 4, 6, 8, 10, 12]
    assert errors == [6, 12]
    timing = read_rows(finished.folder / "timing.jsonl")
    assert [row["step"] for row in timing] == losses
    assert finished.seconds == sum(row["seconds"] for row in timing)


def test_results_are_in_a_file(finished):
    results = json.loads((finished.folder / "results.json").read_text())
    assert results["held_out"]["heldout"]["error"] == finished.held_out["heldout"]["error"]
    assert results["num_params"] == finished.num_params
    assert results["made_with"]["jax"] == jax.__version__
    assert "cpu" in results["made_with"]["device"]


def test_training_learns(tmp_path):
    config = toy_config(num_steps=60, evaluate_every=60, checkpoint=CheckpointConfig(every=60))
    rows = [
        row["loss"] for row in train(config, tmp_path / "run", name="toy").rows if "loss" in row
    ]
    assert np.mean(rows[-3:]) < 0.8 * np.mean(rows[:3])


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path):
    config = toy_config(optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=None))
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d+: .*learning_rate"):
        train(config, tmp_path / "run", name="toy")
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_comparison_trains_each_kind_and_draws_them_together(tmp_path, capsys):
    config = toy_config(
        run_dir=str(tmp_path / "run"),
        compare=["mta", "transformer"],
        num_steps=2,
        evaluate_every=2,
    )
    results = run(config)
    assert list(results) == config.compare
    table = result_table(results)
    assert table.row_count == 2
    assert [column.header for column in table.columns][:5] == [
        "kind",
        "parameters",
        "steps",
        "seconds",
        "whole-answer error",
    ]
    pictures = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert pictures == ["attention.png", "curves.png", "kernels_mta.png"]
    output = capsys.readouterr().out
    assert all(f"{kind}  " in output for kind in config.compare)
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())) == set(config.compare)


def test_a_kind_that_cannot_be_built_fails_before_the_first_trains(tmp_path):
    model = dataclasses.replace(
        toy_config().model,
        num_heads=1,
        mta=dataclasses.replace(toy_config().model.mta, post_head_kernel_size=None),
    )
    config = toy_config(run_dir=str(tmp_path / "run"), compare=["mta", "diff"], model=model)
    with pytest.raises(ConfigError, match="num_heads 1"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_language_model_writes_samples_and_reports_bits_per_byte(tmp_path, capsys):
    config = text_config(run_dir=str(tmp_path / "run"))
    result = run(config)["mta"]
    samples = [row for row in result.rows if "sample" in row]
    assert [row["step"] for row in samples] == [2, 4]
    assert all(row["sample"].startswith("The ") for row in samples)
    figures = result.held_out["docs"]
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    # Documents end with a token that is no byte, so there are a few more tokens than bytes.
    bits_per_token = figures["loss"] / np.log(2)
    assert bits_per_token < figures["bits_per_byte"] < 1.01 * bits_per_token
    assert "bits per byte" in capsys.readouterr().out
