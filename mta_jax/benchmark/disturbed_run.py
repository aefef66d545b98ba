"""A training run in processes of its own, which are killed and started again."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from mta_jax.errors import UserError
from mta_jax.training.records import METRICS_FILE

Kind = Literal["kill", "kill_in_start", "kill_in_save", "terminate", "disk_full"]

# Seconds without the next event after which a process is taken to hang.
_PATIENCE = 300.0
_POLL = 0.001


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a run goes when nothing disturbs it.

    Attributes:
      start: seconds until a process says where it continues, once everything is compiled.
      line: seconds between two lines.
      checkpoint_file: bytes of the largest file of a checkpoint.
    """

    start: float
    line: float
    checkpoint_file: int


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """One row of the table.

    Attributes:
      kind: what was done to the process.
      reached: step of its last line of metrics; of one that wrote none, the step it was to
        continue from.
      resumed: step that the next process continued from.
      exit_code: how it ended; negative: by this signal.
      cut_save: whether it left an unfinished checkpoint.
    """

    kind: Kind
    reached: int
    resumed: int
    exit_code: int
    cut_save: bool

    @property
    def lost(self) -> int:
        """Steps that had to be taken again."""
        return max(self.reached - self.resumed, 0)


class TrainingProcess:
    """`python -m mta_jax.training` on the CPU. Use as a context manager; it is killed at its end.

    Args:
      arguments: its command line.
      folder: its run folder.
      log: file for what it prints.
      cache: folder for compiled programs, which later processes share.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, log: Path, cache: Path):
        self._folder, self._log = folder, log
        self._step_before = self.last_step()
        self.saved_before = max(_saved_steps(folder), default=0)
        self.began = time.monotonic()
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            # Otherwise it waits only for the last step of a line, and SIGTERM is noticed there.
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            # What it prints before it is killed counts.
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mta_jax.training", *arguments, "--run_dir", str(folder)],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "TrainingProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        """Returns the exit code when the process ends."""
        try:
            return self._process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            raise UserError(f"a process does not end within {_PATIENCE:.0f} s") from None

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        """Returns when something is so.

        Raises:
          UserError: where the process ends before, or nothing happens for long.
        """
        for _ in self._polls(what):
            if is_so():
                return

    def last_step(self) -> int:
        """Step of the last line of metrics; 0: there is none."""
        path = self._folder / METRICS_FILE
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        return json.loads(lines[-2])["step"] if len(lines) > 1 else 0

    def reached(self) -> int:
        """Step of its last line of metrics, or the one it was to continue from."""
        has_begun = self.saved_before == 0 or self.continued_from() is not None
        return max(self.saved_before, self.last_step()) if has_begun else self.saved_before

    def has_logged(self, step: int) -> bool:
        """Whether this process has written a line for a step or a later one."""
        # Lines up to this are of a process before it, until it cuts them off.
        return self.last_step() >= max(step, self._step_before + 1)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def kill_in_save(self) -> None:
        """Kills it while a checkpoint is incomplete.

        Raises:
          UserError: where the process ends before.
        """
        for _ in self._polls("save"):
            if not self.has_unfinished_save():
                continue
            # The save may end before a kill would come.
            self.send(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if self.has_unfinished_save():
                self.send(signal.SIGKILL)
                return
            self.send(signal.SIGCONT)

    def fill_disk(self, size: int) -> None:
        """Fails every write from now on that would make a file larger than this."""
        # Not everywhere that the other benchmarks run.
        import resource

        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, size))

    def has_unfinished_save(self) -> bool:
        """Whether a checkpoint is incomplete."""
        return any("orbax-checkpoint-tmp" in name for name in _names(self._folder))

    def continued_from(self) -> int | None:
        """The step it says to continue from; None: it has not said so."""
        found = re.search(r"continuing from step (\d+)", self._log.read_text())
        return int(found.group(1)) if found else None

    def last_words(self) -> str:
        """The last line it printed."""
        lines = self._log.read_text().strip().splitlines()
        return lines[-1] if lines else "nothing"

    def _polls(self, what: str) -> Iterator[None]:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            has_ended = self._process.poll() is not None
            yield
            if has_ended:
                raise UserError(
                    f"a process ended with {self._process.returncode} before its {what}, saying: "
                    f"{self.last_words()}"
                )
            time.sleep(_POLL)
        raise UserError(f"no {what} within {_PATIENCE:.0f} s")


def undisturbed(start: Callable[[], TrainingProcess], folder: Path) -> Pace:
    """Trains to the end, and then gives the command again, which finds nothing left to do.

    Args:
      start: starts the run's command.
      folder: its run folder.

    Raises:
      UserError: where the run fails.
    """
    with start() as process:
        process.wait_for(lambda: process.last_step() > 0, "first line of metrics")
        first = time.monotonic()
        finish(process)
        seconds = time.monotonic() - first
    with start() as process:
        process.wait_for(lambda: process.continued_from() is not None, "start")
        seconds_to_start = time.monotonic() - process.began
        finish(process)
    num_lines = len((folder / METRICS_FILE).read_bytes().splitlines())
    files = [path for path in (folder / "checkpoints").rglob("*") if path.is_file()]
    return Pace(
        start=seconds_to_start,
        line=seconds / num_lines,
        checkpoint_file=max(path.stat().st_size for path in files),
    )


def finish(process: TrainingProcess) -> None:
    """Returns when the run is at its end.

    Raises:
      UserError: where it fails.
    """
    if code := process.wait():
        raise UserError(f"an undisturbed process ended with {code}: {process.last_words()}")


def disturb(
    process: TrainingProcess, kind: Kind, target: int, pace: Pace, rng: random.Random
) -> tuple[int, int]:
    """Disturbs a process at a random moment.

    Args:
      process: it, just started.
      kind: what to do to it.
      target: step to log before; of no meaning for kill_in_start.
      pace: of the run.
      rng: decides the moment.

    Returns:
      The step it had reached, and its exit code.

    Raises:
      UserError: where the process ends by itself.
    """
    if kind == "kill_in_start":
        # A little of what follows its start, too.
        time.sleep(rng.uniform(0, 1.2 * pace.start))
        process.send(signal.SIGKILL)
        code = process.wait()
        return process.reached(), code
    process.wait_for(lambda: process.has_logged(target), f"step {target}")
    time.sleep(rng.uniform(0, 2 * pace.line))
    if kind == "kill":
        process.send(signal.SIGKILL)
    elif kind == "kill_in_save":
        process.kill_in_save()
    elif kind == "terminate":
        process.send(signal.SIGTERM)
    else:
        process.fill_disk(pace.checkpoint_file // 2)
    code = process.wait()
    return process.reached(), code


def _names(folder: Path) -> list[str]:
    checkpoints = folder / "checkpoints"
    return os.listdir(checkpoints) if checkpoints.is_dir() else []


def _saved_steps(folder: Path) -> list[int]:
    return [int(name) for name in _names(folder) if name.isdecimal()]
