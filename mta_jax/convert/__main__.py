"""`python -m mta_jax.convert --input FOLDER --output FOLDER`: weights from format to format."""

import os

if __name__ == "__main__":
    # Weights are only moved: an accelerator would have to hold them.
    os.environ["JAX_PLATFORMS"] = "cpu"

import sys

from mta_jax.command_line import parse
from mta_jax.command_line.subcommands import exit_code_of, quiet_logs
from mta_jax.convert.config import ConvertConfig
from mta_jax.convert.conversion import convert

_PROG = "mta_jax.convert"


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    quiet_logs("absl")
    config, dry_run = parse(
        ConvertConfig,
        arguments,
        prog=_PROG,
        description="Convert weights of Hugging Face and of the paper's code to ours, and back.",
        dry_run_help="Check settings, names and shapes, say what would be converted, and stop.",
    )

    def command() -> int:
        for line in convert(config, dry_run=dry_run):
            print(line)
        return 0

    return exit_code_of(command, prog=_PROG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
