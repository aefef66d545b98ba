"""`python -m mta_jax.prepare --input TEXT --output FOLDER`: text to shards of tokens."""

import signal

if __name__ == "__main__":
    # While the imports below take their seconds, Ctrl-C ends the process at once: raised in
    # the middle of an import, KeyboardInterrupt gets lost or ends in a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from mta_jax.command_line import parse
from mta_jax.errors import UserError
from mta_jax.prepare.config import PrepareConfig
from mta_jax.prepare.preparation import prepare

_PROG = "mta_jax.prepare"


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    config, _ = parse(
        PrepareConfig,
        arguments,
        prog=_PROG,
        description="Turn text into shards of tokens, which training reads.",
        has_dry_run=False,
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        prepare(config)
    except UserError as error:
        print(f"{_PROG}: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{_PROG}: error: {error}; the same command continues", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{_PROG}: stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
