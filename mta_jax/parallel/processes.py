"""Several processes, each with its devices, that make one run."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mta_jax.errors import ConfigError, UserError

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """How processes on several machines find each other, and notice that one is lost.

    A run may be continued with other values here.
    """

    start: bool | None = None
    """true: this is one of several processes; false: it is alone. null: it is one of several
    where coordinator is set, or Slurm, Open MPI, a GKE TPU slice or JAX_COORDINATOR_ADDRESS says
    so."""

    coordinator: str | None = None
    """HOST:PORT of the first process. null: found by JAX, which knows Slurm, Open MPI, Cloud TPU
    and GKE."""

    num_processes: int | None = None
    """How many; null: found as coordinator is."""

    process_id: int | None = None
    """Number of this one, from 0; null: found as coordinator is."""

    startup_timeout: int = 600
    """Seconds to wait for all processes to start."""

    heartbeat_timeout: int = 60
    """Seconds without a sign of life of one process after which the others end too, so that a
    scheduler can start all of them again."""

    exit_code: int = 0
    """Exit code after SIGTERM, when everything is saved. A scheduler that takes 0 for the end of
    the work needs another to start it again, such as 75."""

    def __post_init__(self) -> None:
        if not 0 <= self.exit_code < 126:
            raise ValueError(f"processes.exit_code {self.exit_code}: must be in 0..125")
        for name in ("startup_timeout", "heartbeat_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"processes.{name} {getattr(self, name)}: must be at least 1")
        if self.start is False and self.coordinator is not None:
            raise ValueError(
                f"processes.coordinator {self.coordinator}: has no effect with processes.start "
                "false; set it to null or true"
            )
        given = (self.num_processes is not None, self.process_id is not None)
        if self.coordinator is None and any(given):
            raise ValueError(
                "processes.num_processes and processes.process_id: need processes.coordinator"
            )
        if self.coordinator is not None and not all(given):
            raise ValueError(
                f"processes.coordinator {self.coordinator}: needs processes.num_processes and "
                "processes.process_id"
            )
        if self.coordinator is not None and _address(self.coordinator) is None:
            raise ValueError(
                f"processes.coordinator {self.coordinator}: must be HOST:PORT, such as host0:8476"
            )
        if self.num_processes is not None and not 0 <= (self.process_id or 0) < self.num_processes:
            raise ValueError(
                f"processes.process_id {self.process_id}: must be in 0..{self.num_processes - 1}"
            )


def is_cluster() -> bool:
    """Whether the environment says that this is one of several processes."""
    environment = os.environ
    counts = (
        environment.get("SLURM_STEP_NUM_TASKS"),
        environment.get("OMPI_COMM_WORLD_SIZE"),
        environment.get("MEGASCALE_NUM_SLICES"),
    )
    if any(count is not None and count.isdecimal() and int(count) > 1 for count in counts):
        return True
    return "JAX_COORDINATOR_ADDRESS" in environment or "," in environment.get(
        "TPU_WORKER_HOSTNAMES", ""
    )


def is_alone_on_machine() -> bool:
    """Whether Slurm or Open MPI say that no other process of the run is on this machine."""
    per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    return bool(re.fullmatch(r"1(\(x\d+\))?", per_node)) or (
        os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    )


def start(config: ProcessesConfig) -> None:
    """Joins the other processes, if there are any. Call it before anything is computed.

    Where they do not come in time, a line on stderr says so and the process ends with 1.

    Raises:
      ConfigError: where they cannot be found.
      UserError: where the first of them cannot be reached.
    """
    asked = config.start if config.start is not None else config.coordinator is not None
    if config.start is False or not (asked or is_cluster()):
        return
    deadline = time.monotonic() + config.startup_timeout
    if config.coordinator is not None:
        _check_coordinator(config, deadline)
    try:
        with _ends_at(deadline, config):
            jax.distributed.initialize(
                coordinator_address=config.coordinator,
                num_processes=config.num_processes,
                process_id=config.process_id,
                # Under Slurm and Open MPI JAX gives a process one GPU; none named means all.
                local_device_ids=[] if is_alone_on_machine() else None,
                # Its own end is an abort of the process; ours comes before.
                initialization_timeout=config.startup_timeout + 60,
                heartbeat_timeout_seconds=config.heartbeat_timeout,
            )
    except ValueError as error:
        raise ConfigError(
            f"processes.start: the other processes cannot be found ({_line(error)}); give "
            "processes.coordinator, num_processes and process_id"
        ) from None
    except RuntimeError as error:
        raise UserError(f"processes: cannot be started ({_line(error)})") from None


def _address(coordinator: str) -> tuple[str, int] | None:
    """Host and port, or None where it is none."""
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        return None
    return host.strip("[]"), int(port)


def _check_coordinator(config: ProcessesConfig, deadline: float) -> None:
    """Makes sure that the first process can listen, or waits until it does.

    JAX would end the process in C++, without a word about what to change.
    """
    address = _address(config.coordinator or "")
    assert address is not None
    where = f"processes.coordinator {config.coordinator}"
    if config.process_id == 0:
        try:
            with socket.create_server(("", address[1])):
                return
        except OSError as error:
            raise UserError(
                f"{where}: its port cannot be listened on here ({error.strerror}); take a free one"
            ) from None
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except socket.gaierror:
            raise UserError(f"{where}: there is no such host; it must be the first one's") from None
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{where}: process 0 does not answer there within processes.startup_timeout "
                    f"{config.startup_timeout} seconds ({error.strerror or error})"
                ) from None
        time.sleep(0.5)


@contextlib.contextmanager
def _ends_at(deadline: float, config: ProcessesConfig) -> Iterator[None]:
    """Ends the process with a line where what is inside has not ended by then."""

    def end() -> None:
        print(
            f"processes: not all {config.num_processes or ''} came within "
            f"processes.startup_timeout {config.startup_timeout} seconds",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(max(deadline - time.monotonic(), 1.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def is_first() -> bool:
    """Whether this is the process that writes what only one may."""
    return jax.process_index() == 0


def gathered(value: Value) -> list[Value]:
    """The value of every process, by its number.

    Args:
      value: plain values, as JSON has them. All processes must ask.
    """
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(content))))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = content
    contents = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(row[:length])) for row, length in zip(contents, lengths, strict=True)]


def on_first(function: Callable[[], Value]) -> Value:
    """Has the first process call a function; all get its plain value, or its error.

    Raises:
      UserError: of any kind, as the function does.
    """
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome["value"] = function()
        except (UserError, OSError) as error:
            outcome |= {"error": str(error), "is_config": isinstance(error, ConfigError)}
            if jax.process_count() == 1:
                raise
    outcome = gathered(outcome)[0]
    if "error" in outcome:
        raise (ConfigError if outcome["is_config"] else UserError)(outcome["error"])
    return outcome["value"]
