"""`python -m mta_jax.benchmark step`: the cost of a whole train step on TPUs, without one.

The step is compiled for the smallest slice of each generation by the real TPU compiler. Pallas
kernels count with the static cycles of their schedules (`mta_jax.benchmark.tpu`), every other
instruction with the longer of its arithmetic and its traffic to memory
(`mta_jax.plan.instruction_costs`), and, as a second opinion, with the compiler's own estimate of
its cycles. Nothing is run.
"""

import dataclasses
import math
from typing import Literal

from rich.console import Console

from mta_jax.benchmark.compiler_process import OutOfMemoryError
from mta_jax.benchmark.step_compile import StepProgram, compile_step, read_config
from mta_jax.benchmark.step_estimate import Estimate, estimate_step
from mta_jax.benchmark.step_kernels import KernelTime, kernel_times, label_of
from mta_jax.benchmark.step_report import print_report, write_json
from mta_jax.benchmark.tpu_compile import Compiled, compile_in_subprocess
from mta_jax.benchmark.tpu_kernels import Shapes
from mta_jax.command_line import parse
from mta_jax.errors import ConfigError, UserError
from mta_jax.files import check_figures
from mta_jax.hardware.topologies import TOPOLOGIES, TopologyName, check_libtpu
from mta_jax.models import ModelConfig
from mta_jax.training.config import TrainConfig

_PROG = "python -m mta_jax.benchmark step"

Kind = Literal["transformer", "talking_heads", "mta"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What to estimate: train steps of models that differ in their kind of attention."""

    kinds: list[Kind] = dataclasses.field(
        default_factory=lambda: ["transformer", "talking_heads", "mta"]
    )
    """Kinds of attention; the others are compared with transformer."""

    topologies: list[TopologyName] = dataclasses.field(
        default_factory=lambda: ["v5e", "v5p", "v6e"]
    )
    """TPUs to compile for: the smallest slice of each; its chips share parameters and batch."""

    configs: str = "configs/lm_880m_{kind}.yaml"
    """Config files of the training runs; {kind} stands for the kind of attention."""

    rows: int = 4
    """Sequences on a chip."""

    length: int = 2048
    """Tokens of a sequence; a multiple of 128."""

    groups: int = 0
    """Groups of instructions to show of each program, the costliest first. The file of figures
    has all."""

    json: str | None = None
    """File to write the figures to as well."""

    timeout: float = 3600.0
    """Seconds after which a compilation is given up; a train step takes minutes."""

    def __post_init__(self) -> None:
        for name in ("kinds", "topologies"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} {values}: name at least one, each once")
        if "{kind}" not in self.configs:
            raise ValueError(
                f"configs {self.configs}: must have {{kind}} where the kind of attention stands"
            )
        if self.rows < 1:
            raise ValueError(f"rows {self.rows}: must be at least 1")
        if self.length < 128 or self.length % 128:
            raise ValueError(f"length {self.length}: must be a multiple of 128")
        if self.groups < 0:
            raise ValueError(f"groups {self.groups}: must be at least 0")
        if not self.timeout > 0:
            raise ValueError(f"timeout {self.timeout}: must be above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The training run of one kind of attention on one TPU, as a command line and read."""

    kind: Kind
    topology: TopologyName
    arguments: list[str]
    config: TrainConfig


def main(arguments: list[str]) -> int:
    """Runs the command.

    Args:
      arguments: the command line after `step`.

    Returns:
      The exit code: 0, also where a step needs more memory than there is, which is a finding;
      1 if something did not compile otherwise.

    Raises:
      UserError: where libtpu is missing, a config does not fit the estimate, or a file cannot
        be written.
    """
    config, _ = parse(
        StepConfig,
        arguments,
        prog=_PROG,
        description="Estimate a train step on TPUs that need not be there, by kind of attention.",
        has_dry_run=False,
    )
    check_libtpu()
    if config.json is not None:
        check_figures(config.json)
    # Mistakes in any of them come out before the first is compiled.
    runs = [_run(config, kind, topology) for topology in config.topologies for kind in config.kinds]
    compiler = _Compiler(config, Console(stderr=True, highlight=False))
    estimates: list[Estimate] = []
    failures: dict[str, UserError] = {}
    for run in runs:
        try:
            estimates.append(compiler.estimate(run))
        except UserError as failure:
            failures[f"{run.kind} on {run.topology}"] = failure
    print_report(config, estimates, failures)
    if config.json is not None:
        write_json(config.json, config, estimates, failures)
    return int(any(not isinstance(failure, OutOfMemoryError) for failure in failures.values()))


def _run(config: StepConfig, kind: Kind, topology: TopologyName) -> Run:
    file = config.configs.replace("{kind}", kind)
    shape = TOPOLOGIES[topology].smallest_slice.partition(":")[2]
    num_chips = math.prod(int(size) for size in shape.split("x"))
    settings = {
        "data.batch_tokens": "null",
        "data.batch_size": num_chips * config.rows,
        "data.text.sequence_length": config.length,
        "accumulate": 1,
        "mesh.data": 1,
        "mesh.fsdp": num_chips,
        "mesh.context": 1,
        "mesh.tensor": 1,
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    arguments = ["--config", file, *flags]
    run = read_config(arguments)
    if run.model.attention != kind:
        raise ConfigError(f"configs {file}: model.attention {run.model.attention}: must be {kind}")
    if run.data.source != "text":
        raise ConfigError(f"configs {file}: data.source {run.data.source}: must be text")
    _check_cycles_are_known(run.model, file)
    return Run(kind=kind, topology=topology, arguments=arguments, config=run)


def _check_cycles_are_known(model: ModelConfig, file: str) -> None:
    """Refuses what `mta_jax.benchmark.tpu_kernels` compiles no kernels of."""
    if model.kv_heads != model.num_heads:
        raise ConfigError(
            f"configs {file}: model.num_kv_heads {model.kv_heads}: must be null or num_heads"
        )
    if model.attention != "mta":
        return
    for name in ("pre_kq_kernel_size", "post_kq_kernel_size"):
        if tuple(getattr(model.mta, name) or ()) != (6, 11):
            raise ConfigError(
                f"configs {file}: model.mta.{name} {getattr(model.mta, name)}: must be [6, 11], "
                "of which cycles are known"
            )
    for name in ("pre_head_kernel_size", "post_head_kernel_size"):
        if getattr(model.mta, name) not in ("all", model.num_heads):
            raise ConfigError(
                f"configs {file}: model.mta.{name} {getattr(model.mta, name)}: must be all, of "
                "which cycles are known"
            )


class _Compiler:
    """Compiles steps and kernels; of a kernel that several steps run, once."""

    def __init__(self, config: StepConfig, progress: Console) -> None:
        self._config = config
        self._progress = progress
        self._kernels: dict[tuple[str, TopologyName, Shapes], Compiled] = {}

    def estimate(self, run: Run) -> Estimate:
        self._progress.print(f"compiling the train step of {run.kind} for {run.topology}")
        timeout = self._config.timeout
        program = compile_step(run.arguments, run.topology, timeout=timeout)
        times = self._kernel_times(run, program)
        return estimate_step(run.kind, run.topology, run.config, program, times, self._config.rows)

    def _kernel_times(self, run: Run, program: StepProgram) -> dict[str, KernelTime]:
        model = run.config.model
        topology = TOPOLOGIES[run.topology]
        shapes = Shapes(
            num_heads=model.num_heads,
            length=self._config.length,
            head_size=model.head_size,
            dtype=model.dtype,
            direction="forward+backward",
            device_kind=topology.device_kind,
            segments=run.config.data.text.separate_documents,
        )

        def compile_kernel(kernel: str) -> Compiled:
            key = (kernel, run.topology, shapes)
            if key not in self._kernels:
                self._progress.print(f"compiling {kernel} for {run.topology}")
                self._kernels[key] = compile_in_subprocess(
                    kernel, run.topology, shapes, timeout=self._config.timeout
                )
            return self._kernels[key]

        labels = {label_of(cost.name) for cost in program.costs if cost.role == "kernel"}
        return kernel_times(labels, shapes, topology, compile_kernel)
