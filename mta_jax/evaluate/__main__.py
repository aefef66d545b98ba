"""`python -m mta_jax.evaluate TASK`: runs one evaluation."""

import sys

from mta_jax.command_line.subcommands import quiet_logs, run_subcommand
from mta_jax.evaluate import babilong, perplexity, toy
from mta_jax.evaluate.needle import evaluation as needle

TASKS = {
    "perplexity": perplexity.main,
    "toy": toy.main,
    "needle": needle.main,
    "babilong": babilong.main,
}

USAGE = f"""usage: python -m mta_jax.evaluate TASK --checkpoint RUN [--setting value]

perplexity  of held-out text, by domain; bits per byte beside it
toy         the paper's table 1: wrong answers to the block-search task
needle      numbers of cities, hidden in running text
babilong    facts hidden in a long text, and questions about them: BABILong, QA1 to QA5

python -m mta_jax.evaluate TASK --help lists the settings. Tasks: {", ".join(TASKS)}."""


def main(arguments: list[str]) -> int:
    """Runs the task that the first argument names; returns the exit code."""
    quiet_logs("absl")
    return run_subcommand(arguments, TASKS, prog="mta_jax.evaluate", word="task", usage=USAGE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
