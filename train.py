"""Trains a model: settings in, run folder out.

python train.py                                      the block-search demonstration
python train.py --config configs/lm_tiny_mta.yaml    a small language model
python train.py --config FILE --section.field VALUE  anything else
python train.py --help                               every setting
"""

import signal

# While the imports below take their seconds, Ctrl-C ends the process at once: raised in
# the middle of an import, KeyboardInterrupt gets lost or ends in a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import logging
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax

from mta_jax.command_line import parse
from mta_jax.errors import PreemptedError, UserError
from mta_jax.parallel.processes import is_first, start
from mta_jax.training.comparison import run
from mta_jax.training.config import TrainConfig
from mta_jax.training.dry_run import print_dry_run

DEMO = Path(__file__).parent / "configs" / "demo.yaml"


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    # Some libraries install a handler of their own when they are imported.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mta_jax").setLevel(logging.INFO)
    # Orbax reports each failed attempt to read; ours is the line the user needs.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not any(argument.split("=")[0] == "--config" for argument in arguments):
        arguments = ["--config", str(DEMO), *arguments]
    config, dry_run = parse(
        TrainConfig, arguments, prog="train.py", description="Train a transformer."
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if dry_run:
            print_dry_run(config)
            return 0
        start(config.processes)
        if not is_first():
            # What there is to say, the first process says.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        run(config)
    except PreemptedError as error:
        print(f"train.py: {error}", file=sys.stderr)
    except UserError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(
            f"train.py: error: {error}, with run_dir {config.run_dir}; when that is mended, the "
            "same command continues the run",
            file=sys.stderr,
        )
        return 1
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"train.py: process {jax.process_index()} of {jax.process_count()} cannot go on "
            f"({' '.join(str(error).split())[:300]}); has another process died? When all of them "
            "are started again, the same command continues the run",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("train.py: stopped; the same command continues the run", file=sys.stderr)
        return 130
    return 0


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """A background writer that fails, on a full disk say, is worth a line, no more."""
    if isinstance(failure.exc_value, OSError):
        print(f"train.py: a background write failed: {failure.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(failure)


def _report_unraisable(failure: Any) -> None:
    """Reads that Orbax abandons when a checkpoint proves damaged are no news."""
    abandoned = "Event loop is closed" in str(failure.exc_value)
    if not abandoned and "<coroutine object" not in repr(failure.object):
        sys.__unraisablehook__(failure)


if __name__ == "__main__":
    sys.unraisablehook = _report_unraisable
    # Another sign of such reads.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")
    threading.excepthook = _report_thread
    exit_code = main(sys.argv[1:])
    if exit_code in (1, 130):
        # A failed write leaves event loops and queues behind that would each print a
        # traceback of their own while Python shuts down, and a compilation that was
        # interrupted can crash it. All files are closed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
