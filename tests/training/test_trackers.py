import sys
import types

import pytest

from mta_jax.errors import ConfigError
from mta_jax.training.config import TrackConfig
from mta_jax.training.loop import train
from tests.training.tiny import toy_config


@pytest.fixture
def library(monkeypatch):
    """Stands in for wandb and trackio, which have the same functions."""
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append(("log", step, values)),
        finish=lambda: calls.append(("finish",)),
    )

    def init(**options):
        calls.append(("init", options))
        return run

    for name in ("wandb", "trackio"):
        module = types.SimpleNamespace(init=init)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_every_row_goes_to_the_tracker_under_the_runs_name(tmp_path, library, name):
    config = toy_config(num_steps=4, track=TrackConfig(to=[name], project="attention"))
    result = train(config, tmp_path / "my-run", name="toy")
    (_, options), *logged, last = library
    assert (options["project"], options["name"]) == ("attention", "my-run")
    assert options["config"]["num_steps"] == 4
    assert last == ("finish",)
    rows = [{"step": step, **values} for _, step, values in logged]
    assert [row for row in rows if "seconds" not in row] == result.rows
    assert any("tokens_per_second" in row for row in rows)


def test_a_run_that_continues_keeps_its_id(tmp_path, library):
    for num_steps in (4, 4):
        track = TrackConfig(to=["wandb"])
        train(toy_config(num_steps=num_steps, track=track), tmp_path / "run", name="toy")
    ids = [call[1]["id"] for call in library if call[0] == "init"]
    assert ids[0] == ids[1] == (tmp_path / "run" / "tracker_id").read_text()


def test_a_tracker_that_fails_costs_a_warning_and_no_run(tmp_path, library, monkeypatch, caplog):
    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(sys.modules["wandb"].init(), "log", fail)
    config = toy_config(num_steps=4, track=TrackConfig(to=["wandb"]))
    assert train(config, tmp_path / "run", name="toy").rows
    assert caplog.text.count("wandb: no route; metrics are missing there") == 1
    monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    with pytest.raises(ConfigError, match=r"track.to wandb: cannot be opened \(no route\)"):
        train(config, tmp_path / "another", name="toy")


def test_runs_of_a_comparison_have_names_of_their_own(tmp_path, library):
    config = toy_config(num_steps=2, track=TrackConfig(to=["trackio"]))
    train(config, tmp_path / "run" / "mta", name="toy")
    assert library[0][1]["name"] == "run/mta"


def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = toy_config(num_steps=4, track=TrackConfig(to=["wandb"]))
    with pytest.raises(ConfigError, match=r"track.to wandb: not installed .*; pip install wandb"):
        train(config, tmp_path / "run", name="toy")
    # Who is told makes no other run of it.
    assert train(toy_config(num_steps=4), tmp_path / "run", name="toy").rows
