"""`python -m mta_jax.evaluate lm_eval`."""

from mta_jax.data.optional import optional_library
from mta_jax.errors import ConfigError
from mta_jax.evaluate.lm_eval.config import LmEvalConfig
from mta_jax.evaluate.task import Findings, run_task


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    return run_task(
        "lm_eval",
        LmEvalConfig,
        _findings,
        arguments,
        description="Benchmarks of lm-evaluation-harness.",
    )


def _findings(config: LmEvalConfig) -> Findings:
    try:
        optional_library("lm_eval", needed_by="tasks", extra="eval")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # This imports the library, which not everybody has.
    from mta_jax.evaluate.lm_eval.running import evaluate_tasks

    return evaluate_tasks(config)
