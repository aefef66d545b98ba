"""`python -m mta_jax.prepare --input TEXT --output FOLDER`: text to shards of tokens."""

import signal

if __name__ == "__main__":
    # While the imports below take their seconds, Ctrl-C ends the process at once: raised in
    # the middle of an import, KeyboardInterrupt gets lost or ends in a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from mta_jax.command_line import parse
from mta_jax.command_line.subcommands import exit_code_of
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

    def command() -> int:
        prepare(config)
        return 0

    return exit_code_of(command, prog=_PROG, hint="; the same command continues")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
