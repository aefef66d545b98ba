"""Compiles a train step for TPUs that need not be there, in a process of its own."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from mta_jax.benchmark.compiler_process import answer, run_compiler
from mta_jax.command_line import parse
from mta_jax.errors import UserError
from mta_jax.hardware.topologies import TOPOLOGIES, TopologyName
from mta_jax.plan.compilation import lower_step
from mta_jax.plan.instruction_costs import Cost, instruction_costs
from mta_jax.plan.program_text import collectives
from mta_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepProgram:
    """What the compiled train step of one device consists of."""

    costs: list[Cost]
    """Of every instruction that costs something."""

    bytes_sent: int
    """To other devices, in one step."""


def read_config(arguments: list[str]) -> TrainConfig:
    """The run that a command line of settings describes."""
    config, _ = parse(
        TrainConfig,
        arguments,
        prog="python -m mta_jax.benchmark step",
        description="",
        has_dry_run=False,
    )
    return config


def compile_step(arguments: list[str], topology: TopologyName, *, timeout: float) -> StepProgram:
    """Compiles the train step of a run for the smallest slice of a generation.

    Args:
      arguments: the run's settings, as a command line.
      topology: the generation.
      timeout: seconds after which it is given up.

    Raises:
      OutOfMemoryError: if the step needs more memory than the slice has.
      UserError: if it does not compile otherwise, or not in time.
    """
    content = run_compiler(__name__, [arguments, topology], timeout=timeout)
    costs = [Cost(**cost) for cost in content["costs"]]
    return StepProgram(costs=costs, bytes_sent=content["bytes_sent"])


def _answer(request: list[Any], folder: Path) -> dict[str, Any]:
    arguments, topology = request
    step = lower_step(read_config(arguments), TOPOLOGIES[topology].smallest_slice)
    text = step.lowered.compile().as_text()
    if text is None:
        raise UserError("this libtpu gives no text of a program")
    return {
        "costs": [dataclasses.asdict(cost) for cost in instruction_costs(text)],
        "bytes_sent": sum(collective.bytes_sent for collective in collectives(text)),
    }


if __name__ == "__main__":
    answer(sys.argv[1], _answer)
