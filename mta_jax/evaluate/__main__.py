"""`python -m mta_jax.evaluate TASK`: runs one evaluation."""

import importlib
import sys
from collections.abc import Callable

from mta_jax.command_line.subcommands import quiet_logs, run_subcommand

# The module in `mta_jax.evaluate` that has the task's `main`, and what the task is. It is imported
# when it is asked for: one task needs no libraries of another.
TASKS = {
    "babilong": ("babilong.evaluation", "facts hidden in a long text: BABILong, QA1 to QA5"),
    "lambada": ("lambada", "last word of a passage: perplexity and accuracy"),
    "lm_eval": ("lm_eval.command", "benchmarks of lm-evaluation-harness (extra `eval`)"),
    "needle": ("needle.evaluation", "numbers of cities, hidden in running text"),
    "perplexity": ("perplexity", "of held-out text, by domain; bits per byte beside it"),
    "report": ("report.command", "one page on --runs and --evaluations, HTML and Markdown"),
    "toy": ("toy", "the paper's table 1: wrong answers to the block-search task"),
}

USAGE = """usage: python -m mta_jax.evaluate TASK --checkpoint RUN [--setting value]

{tasks}

python -m mta_jax.evaluate TASK --help lists the settings.""".format(
    tasks="\n".join(f"{name:<12}{text}" for name, (_, text) in TASKS.items())
)


def main(arguments: list[str]) -> int:
    """Runs the task that the first argument names; returns the exit code."""
    quiet_logs("absl")
    commands = {task: _main_of(module) for task, (module, _) in TASKS.items()}
    return run_subcommand(arguments, commands, prog="mta_jax.evaluate", word="task", usage=USAGE)


def _main_of(module: str) -> Callable[[list[str]], int]:
    def main_of_task(arguments: list[str]) -> int:
        return importlib.import_module(f"mta_jax.evaluate.{module}").main(arguments)

    return main_of_task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
