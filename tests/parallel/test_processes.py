import json
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest

from mta_jax.errors import ConfigError, UserError
from mta_jax.parallel import processes
from mta_jax.parallel.processes import ProcessesConfig, gathered, is_cluster, is_first, on_first
from mta_jax.training import together
from mta_jax.training.saved_weights import read_weights
from tests.parallel.two_processes import Process, free_port, two_processes


@pytest.mark.once
def test_two_processes_killed_and_stopped_end_as_one(tmp_path):
    run_dir = tmp_path / "two"
    metrics = run_dir / "metrics.jsonl"
    with two_processes(run_dir) as (first, second):
        first.wait_for_step(metrics, 10)
        second.send(signal.SIGKILL)
        began = time.monotonic()
        assert first.wait() != 0
        assert time.monotonic() - began < 60

    with two_processes(run_dir) as (first, second):
        first.wait_for_step(metrics, 14)
        second.send(signal.SIGTERM)
        codes = (first.wait(), second.wait())
        assert codes == (0, 0), first.output() + second.output()
        assert "continuing from step" in first.output()
        saved = re.search(r"asked to end: step (\d+) of", first.output()).group(1)

    with two_processes(run_dir) as (first, second):
        codes = (first.wait(), second.wait())
        assert codes == (0, 0), first.output() + second.output()
        assert f"continuing from step {saved}" in first.output()

    alone = Process(tmp_path / "one", 1)
    assert alone.wait() == 0, alone.output()
    assert_equal_runs(run_dir, tmp_path / "one")


def assert_equal_runs(run, other):
    rows, others = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, other)
    )
    assert len(rows) == len(others)
    for row, expected in zip(rows, others, strict=True):
        # Text that is drawn may turn on the last bit of a logit.
        assert ("sample" in row) == ("sample" in expected)
        row.pop("sample", None)
        expected.pop("sample", None)
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
    weights, expected = (read_weights(folder, "run") for folder in (run, other))
    assert weights.step == expected.step == 32
    leaves = jax.tree_util.tree_flatten_with_path(expected.params)[0]
    for (path, x), found in zip(leaves, jax.tree.leaves(weights.params), strict=True):
        x, found = np.asarray(x), np.asarray(found)
        assert np.abs(found - x).max() < 1e-5 * np.abs(x).max(), jax.tree_util.keystr(path)


VARIABLES = (
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
    "MEGASCALE_NUM_SLICES",
    "TPU_WORKER_HOSTNAMES",
)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": ""}, False),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
    ],
)
def test_the_environment_tells_of_other_processes(environment, expected, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_cluster() is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"start": True}, True),
        ({"start": False}, False),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 0}, True),
    ],
)
@pytest.mark.parametrize("in_cluster", [False, True])
def test_processes_join_where_they_are_asked_to(fields, expected, in_cluster, monkeypatch):
    joined = []
    monkeypatch.setattr(processes, "is_cluster", lambda: in_cluster)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: joined.append(options))
    if "coordinator" in fields:
        fields = fields | {"coordinator": f"localhost:{free_port()}"}
    config = ProcessesConfig(**fields)
    processes.start(config)
    assert len(joined) == (expected or (in_cluster and config.start is None))
    for options in joined:
        assert options["coordinator_address"] == config.coordinator
        assert options["heartbeat_timeout_seconds"] == 60


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (ValueError("no\naddress"), ConfigError, r"cannot be found \(no address\); give processes"),
        (RuntimeError("called twice"), UserError, r"cannot be started \(called twice\)"),
    ],
)
def test_processes_that_cannot_join_say_why_in_a_line(raised, error, message, monkeypatch):
    def initialize(**options):
        raise raised

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(error, match=message) as caught:
        processes.start(ProcessesConfig(start=True))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2),2"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
    ],
)
def test_a_process_alone_on_its_machine_takes_all_its_gpus(variables, expected, monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: joined.append(options))
    for name in ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.start(ProcessesConfig(start=True))
    assert joined[0]["local_device_ids"] == expected


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        config = ProcessesConfig(coordinator=address, num_processes=2, process_id=0)
        with pytest.raises(UserError, match=f"{address}: its port cannot be listened on here"):
            processes.start(config)


def test_a_first_process_that_does_not_come_is_named():
    address = f"localhost:{free_port()}"
    config = ProcessesConfig(coordinator=address, num_processes=2, process_id=1, startup_timeout=1)
    with pytest.raises(UserError, match=f"{address}: process 0 does not answer there within"):
        processes.start(config)


def test_others_that_do_not_come_end_the_first_with_a_line(tmp_path):
    alone = Process(
        tmp_path / "run",
        1,
        **{
            "processes.coordinator": f"localhost:{free_port()}",
            "processes.num_processes": 2,
            "processes.process_id": 0,
            "processes.startup_timeout": 3,
        },
    )
    assert alone.wait() == 1
    last = alone.output().strip().splitlines()[-1]
    assert last == "processes: not all 2 came within processes.startup_timeout 3 seconds"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer.learning_rate": 0.3},
            "error: optimizer.learning_rate is 0.001 in process 0 and 0.3 in process 1: all "
            "processes of a run need the same settings",
        ),
        pytest.param(
            {"mesh.data": 4, "mesh.fsdp": 1},
            "error: mesh.data is 2 in process 0 and 4 in process 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_processes_with_other_settings_end_at_once(tmp_path, changes, message):
    with two_processes(tmp_path / "run", of_second=changes) as (first, second):
        assert (first.wait(), second.wait()) == (2, 2)
        assert message in second.output()


def test_a_folder_that_is_not_shared_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "_PATIENCE", 0.0)
    monkeypatch.setattr(together, "on_first", lambda function: function() or "elsewhere")
    monkeypatch.setattr(together.Path, "touch", lambda path: None)
    monkeypatch.setattr(together.Path, "unlink", lambda path: None)
    with pytest.raises(ConfigError, match="process 0 does not see what process 0 writes there"):
        together.check_shared_folder(tmp_path)
    monkeypatch.undo()
    together.check_shared_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


COORDINATOR = {"coordinator": "host:1234"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"startup_timeout": 0}, "processes.startup_timeout 0: must be at least 1"),
        ({"heartbeat_timeout": 0}, "processes.heartbeat_timeout 0: must be at least 1"),
        (
            COORDINATOR | {"start": False},
            "processes.coordinator host:1234: has no effect with processes.start false; set it to "
            "null or true",
        ),
        (
            {"process_id": 0},
            "processes.num_processes and processes.process_id: need processes.coordinator",
        ),
        (
            COORDINATOR | {"num_processes": 2},
            "processes.coordinator host:1234: needs processes.num_processes and "
            "processes.process_id",
        ),
        (
            {"coordinator": "host0", "num_processes": 2, "process_id": 1},
            "processes.coordinator host0: must be HOST:PORT, such as host0:8476",
        ),
        (
            {"coordinator": "host:99999", "num_processes": 2, "process_id": 1},
            "processes.coordinator host:99999: must be HOST:PORT, such as host0:8476",
        ),
        (
            COORDINATOR | {"num_processes": 2, "process_id": 2},
            "processes.process_id 2: must be in 0..1",
        ),
        (
            COORDINATOR | {"num_processes": 2, "process_id": -1},
            "processes.process_id -1: must be in 0..1",
        ),
    ],
)
def test_a_mistake_in_the_settings_is_named(fields, message):
    with pytest.raises(ValueError, match=r"^processes") as caught:
        ProcessesConfig(**fields)
    assert str(caught.value) == message


def test_one_process_agrees_with_itself():
    assert is_first()
    value = object()
    assert gathered(value) == [value]
    assert on_first(lambda: value) is value


@pytest.mark.parametrize("error", [UserError("no"), ConfigError("no"), OSError("no")])
def test_an_error_of_the_only_process_stays_as_it_is(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        on_first(fail)
    assert caught.value is error
