"""`train.py` in two processes of this machine, with four devices each."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]

# Rounding differs between meshes. The large epsilon keeps Adam from amplifying it.
SETTINGS = {
    "compare": "null",
    "num_steps": 32,
    "log_every": 2,
    "evaluate_every": 16,
    "sample.every": 16,
    "sample.num_tokens": 20,
    "checkpoint.every": 4,
    "model.num_layers": 1,
    "model.embed_dim": 32,
    "model.num_heads": 4,
    "model.mlp_dim": 64,
    "model.mta": "{pre_kq_kernel_size: [2, 3], post_kq_kernel_size: [2, 3]}",
    "data.source": "text",
    "data.batch_size": 8,
    "data.streams": 2,
    "data.text.domains": "{docs: {train: 'python:docs'}}",
    "data.text.packing": "best_fit",
    "data.text.sequence_length": 32,
    "data.text.shuffle_rows": 16,
    "data.text.heldout_rows": 16,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 0,
    "optimizer.schedule": "constant",
    "optimizer.epsilon": 1e-5,
}
MESH = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
PATIENCE = 120


class Process:
    """One process of the run.

    Args:
      run_dir: the run folder; what the process prints goes to a file beside it.
      num_devices: how many devices it has.
      number: of the process.
      **changes: further settings.
    """

    def __init__(self, run_dir: Path, num_devices: int, number: int = 0, **changes: object):
        settings = SETTINGS | {"run_dir": run_dir} | changes
        flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        devices = f"--xla_force_host_platform_device_count={num_devices}"
        self._log = run_dir.with_name(f"{run_dir.name}_{number}.log")
        with self._log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *flags],
                env=os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {devices}"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code, when it has ended."""
        return self._process.wait(timeout=PATIENCE)

    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def wait_for_step(self, metrics: Path, step: int) -> None:
        """Returns when a step is logged; lines of steps before it may be older."""
        deadline = time.monotonic() + PATIENCE
        while not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
            assert self._process.poll() is None, self.output()
            assert time.monotonic() < deadline
            time.sleep(0.005)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def two_processes(
    run_dir: Path, of_second: Mapping[str, object] = MappingProxyType({})
) -> Iterator[list[Process]]:
    """Both processes of the run, which are killed at the end.

    Args:
      run_dir: the run folder.
      of_second: settings of the second that the first has not.
    """
    shared = {
        "processes.coordinator": f"127.0.0.1:{free_port()}",
        "processes.num_processes": 2,
        "processes.heartbeat_timeout": 10,
    }
    processes = [
        Process(run_dir, 4, number, **(MESH | shared | {"processes.process_id": number} | own))
        for number, own in enumerate(({}, of_second))
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.send(signal.SIGKILL)
            process.wait()
