import dataclasses
import json

import pytest

from mta_jax.benchmark import faults
from mta_jax.benchmark.__main__ import main
from mta_jax.benchmark.disturbed_run import Disturbance
from mta_jax.benchmark.faults import FaultsConfig

KINDS = ["kill", "kill_in_save", "terminate", "disk_full"]


@pytest.mark.parametrize(
    ("asynchronous", "kinds"),
    [
        pytest.param(True, ["kill_in_save", "terminate"], marks=pytest.mark.once),
        pytest.param(True, KINDS, marks=pytest.mark.slow),
        pytest.param(False, ["kill", "kill_in_save"], marks=pytest.mark.slow),
    ],
)
def test_a_run_survives_one_fault_of_each_kind(tmp_path, capsys, asynchronous, kinds):
    file = tmp_path / "figures.json"
    arguments = ["--kills", str(len(kinds)), "--kinds", json.dumps(kinds), "--json", str(file)]
    assert main(["faults", *arguments, f"--asynchronous={asynchronous}"]) == 0
    rows = json.loads(file.read_text())["disturbances"]
    assert sorted(row["kind"] for row in rows) == sorted(kinds)
    for row in rows:
        assert row["lost"] <= (12 if asynchronous else 6)
        assert row["cut_save"] or row["kind"] != "kill_in_save"
        if row["kind"] == "terminate":
            assert (row["exit_code"], row["lost"]) == (0, 0)
    out = capsys.readouterr().out
    assert f"{len(kinds)} disturbances" in out
    assert "bit for bit" in out


ROW = Disturbance(kind="kill", reached=20, resumed=8, exit_code=-9, cut_save=False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"resumed": 0}, "20 steps lost, must be at most 12"),
        ({"kind": "terminate", "exit_code": 0}, "12 steps lost, must be at most 0"),
        ({"kind": "terminate", "resumed": 22}, "ended with -9, must be 0"),
    ],
)
def test_what_a_process_must_not_do_is_a_problem(changes, problem):
    found = faults._problems_of([dataclasses.replace(ROW, **changes)], 12)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "notes").touch()
    assert main(["faults", "--folder", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kills": 0}, "kills 0: must be at least 1"),
        ({"kinds": []}, "kinds \\[\\]: name at least one"),
    ],
)
def test_a_setting_without_meaning_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FaultsConfig(**fields)
