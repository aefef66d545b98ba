"""`python -m mta_jax.evaluate TASK`: runs one evaluation."""

import logging
import sys

from mta_jax.errors import UserError
from mta_jax.evaluate import perplexity

TASKS = {"perplexity": perplexity.main}

USAGE = f"""usage: python -m mta_jax.evaluate TASK --checkpoint RUN [--setting value]

perplexity  of held-out text, by domain; bits per byte beside it

python -m mta_jax.evaluate TASK --help lists the settings. Tasks: {", ".join(TASKS)}."""


def main(arguments: list[str]) -> int:
    """Runs the task that the first argument names; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    # Orbax reports what it reads; what fails is the line of the error.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if not arguments or arguments[0] not in TASKS:
        given = f"{arguments[0]!r}: no such task" if arguments else "which task?"
        print(f"mta_jax.evaluate: error: {given}; there are {', '.join(TASKS)}", file=sys.stderr)
        return 2
    try:
        return TASKS[arguments[0]](arguments[1:])
    except UserError as error:
        print(f"mta_jax.evaluate: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mta_jax.evaluate: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
