"""The command that trains: settings in, run folder out."""

import functools
import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NoReturn

import jax

from mta_jax.command_line import parse
from mta_jax.command_line.subcommands import quiet_logs
from mta_jax.errors import PreemptedError, UserError
from mta_jax.parallel.processes import is_first, start
from mta_jax.training.comparison import run
from mta_jax.training.config import TrainConfig
from mta_jax.training.dry_run import print_dry_run
from mta_jax.training.together import check_same_settings


def main(arguments: list[str], *, prog: str, config: Path | None = None) -> int:
    """Runs the command; returns the exit code.

    Args:
      arguments: the command line.
      prog: the program's name, for messages.
      config: settings to take where the command line names no file of them.
    """
    quiet_logs("absl", "asyncio")
    logging.getLogger("mta_jax").setLevel(logging.INFO)
    names_config = any(argument.split("=")[0] == "--config" for argument in arguments)
    if config is not None and not names_config:
        arguments = ["--config", str(config), *arguments]
    settings, dry_run = parse(TrainConfig, arguments, prog=prog, description="Train a transformer.")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if dry_run:
            print_dry_run(settings)
            return 0
        start(settings.processes)
        check_same_settings(settings)
        if not is_first():
            # What there is to say, the first process says; this one's output is open to its end.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        run(settings)
    except PreemptedError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return settings.processes.exit_code
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(
            f"{prog}: error: {error}, with run_dir {settings.run_dir}; when that is mended, the "
            "same command continues the run",
            file=sys.stderr,
        )
        return 1
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"{prog}: process {jax.process_index()} of {jax.process_count()} cannot go on "
            f"({' '.join(str(error).split())[:300]}); has another process died? When all of them "
            "are started again, the same command continues the run",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same command continues the run", file=sys.stderr)
        return 130
    return 0


def run_program(arguments: list[str], *, prog: str, config: Path | None = None) -> NoReturn:
    """Runs the command as a whole process, which ends with its exit code.

    Args:
      arguments: as of `main`.
      prog: as of `main`.
      config: as of `main`.
    """
    sys.unraisablehook = _report_unraisable
    # Another sign of the reads that `_report_unraisable` is about.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    threading.excepthook = functools.partial(_report_thread, prog)
    exit_code = main(arguments, prog=prog, config=config)
    if exit_code in (1, 130) or (exit_code == 2 and jax.process_count() > 1):
        # A failed write leaves event loops and queues behind that would each print a
        # traceback of their own while Python shuts down, and a compilation that was
        # interrupted can crash it; JAX would wait minutes for processes that wait for this
        # one. All files are closed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def _report_thread(prog: str, failure: threading.ExceptHookArgs) -> None:
    """A background writer that fails, on a full disk say, is worth a line, no more."""
    if isinstance(failure.exc_value, OSError):
        print(f"{prog}: a background write failed: {failure.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(failure)


def _report_unraisable(failure: Any) -> None:
    """Reads that Orbax abandons when a checkpoint proves damaged are no news."""
    abandoned = "Event loop is closed" in str(failure.exc_value)
    if not abandoned and "<coroutine object" not in repr(failure.object):
        sys.__unraisablehook__(failure)
