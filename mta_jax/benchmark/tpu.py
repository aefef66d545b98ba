"""`python -m mta_jax.benchmark tpu`: what attention kernels cost on a TPU, without one.

Each kernel is compiled ahead of time by the real TPU compiler, libtpu. The report holds
what the compiler knows: memory, bytes accessed, and the static cycles of Pallas kernels
(`mta_jax.benchmark.schedule` says what those count). All of it is an estimate: nothing
is run.
"""

import dataclasses
import importlib.metadata
import re
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from mta_jax.benchmark.compiler_process import OutOfMemoryError
from mta_jax.benchmark.tpu_compile import Compiled, compile_in_subprocess
from mta_jax.benchmark.tpu_cycles import Row, ratio, rows_of, xla_cycles
from mta_jax.benchmark.tpu_kernels import KERNELS, YARDSTICK, Direction, Shapes
from mta_jax.command_line import parse
from mta_jax.errors import UserError
from mta_jax.files import write_figures
from mta_jax.hardware.topologies import TOPOLOGIES, TopologyName, check_libtpu
from mta_jax.training.memory import spell_bytes

_PROG = "python -m mta_jax.benchmark tpu"

_CAVEAT = (
    "Estimates from a compiled schedule; nothing was run. Cycles are bundles, per 128 x 128 "
    "logits per head: of an interior tile; what a step of the grid takes besides; and of the "
    "whole causal pass, tiles on the diagonal and idle steps included, over the logits that "
    "are not masked. DMA waits are not in them. XLA is the part outside Pallas kernels: the "
    "time that its bytes, by its own cost model, take at the bandwidth of the chip's memory. "
    "Of programs without any Pallas kernel only the memory is reported."
)


# What JAX adds to the name of a kernel.
_LABEL = re.compile(r"^(transpose_|jvp_)+|(_no)?_residuals|_*\.\d+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuBenchmarkConfig:
    """What to compile: causal self-attention of one sequence."""

    topologies: list[TopologyName] = dataclasses.field(default_factory=lambda: ["v5e", "v6e"])
    """TPUs to compile for; one core of each."""

    kernels: list[str] = dataclasses.field(default_factory=lambda: list(KERNELS))
    """Kernels to compile. `splash` is JAX's own attention, and what others are compared
    with; `pallas_tpu` is multi-token attention with a key-query kernel on the logits,
    `pallas_tpu_head_mixing` with head mixing on both sides, the others with all four steps."""

    direction: Direction = "forward"
    """Forward pass only, or with the gradients towards all arguments."""

    num_heads: int = 16
    """Heads, for queries and keys alike."""

    length: int = 4096
    """Positions; a multiple of 128."""

    head_size: int = 128
    """Size of a head."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of queries, keys and values."""

    json: str | None = None
    """File to write the figures to as well."""

    timeout: float = 600.0
    """Seconds after which a compilation is given up."""

    def __post_init__(self) -> None:
        for name in ("topologies", "kernels"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} {values}: name at least one, each once")
        for kernel in self.kernels:
            if kernel not in KERNELS:
                raise ValueError(f"kernels {kernel}: must be among {', '.join(KERNELS)}")
        for name in ("num_heads", "head_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.length < 128 or self.length % 128:
            raise ValueError(f"length {self.length}: must be a multiple of 128")
        if not self.timeout > 0:
            raise ValueError(f"timeout {self.timeout}: must be above 0")

    def shapes(self, topology: TopologyName) -> Shapes:
        """What each kernel is compiled for on a TPU."""
        return Shapes(
            num_heads=self.num_heads,
            length=self.length,
            head_size=self.head_size,
            dtype=self.dtype,
            direction=self.direction,
            device_kind=TOPOLOGIES[topology].device_kind,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of one kernel on one TPU."""

    kernel: str
    topology: TopologyName
    compiled: Compiled | None = None
    rows: list[Row] = dataclasses.field(default_factory=list)
    xla_cycles: float | None = None
    failure: UserError | None = None

    @property
    def cycles(self) -> list[float | None]:
        """Of every Pallas kernel, and of the rest."""
        return [*(row.whole for row in self.rows), self.xla_cycles]


def main(arguments: list[str]) -> int:
    """Runs the command.

    Args:
      arguments: the command line after `tpu`.

    Returns:
      The exit code: 0, also where a program needs more memory than there is, which is a
      finding; 1 if something did not compile otherwise.

    Raises:
      UserError: where libtpu is missing, or a file cannot be written.
    """
    config, _ = parse(
        TpuBenchmarkConfig,
        arguments,
        prog=_PROG,
        description="Compile attention for a TPU that need not be there; report estimates.",
        has_dry_run=False,
    )
    check_libtpu()
    outcomes = _compile_all(config)
    _print_report(config, outcomes)
    if config.json is not None:
        _write_json(config, outcomes)
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    return int(any(not isinstance(failure, OutOfMemoryError) for failure in failures))


def _compile_all(config: TpuBenchmarkConfig) -> list[_Outcome]:
    if config.json is not None and not Path(config.json).expanduser().parent.is_dir():
        raise UserError(f"json {config.json}: there is no such folder")
    progress = Console(stderr=True, highlight=False)
    outcomes = []
    for topology in config.topologies:
        for kernel in config.kernels:
            progress.print(f"compiling {kernel} for {topology}")
            shapes = config.shapes(topology)
            try:
                compiled = compile_in_subprocess(kernel, topology, shapes, timeout=config.timeout)
            except UserError as failure:
                outcome = _Outcome(kernel=kernel, topology=topology, failure=failure)
            else:
                chip = TOPOLOGIES[topology]
                outcome = _Outcome(
                    kernel=kernel,
                    topology=topology,
                    compiled=compiled,
                    rows=rows_of(compiled, shapes, chip),
                    xla_cycles=xla_cycles(compiled, shapes, chip),
                )
            outcomes.append(outcome)
    return outcomes


def _yardstick(outcomes: list[_Outcome], topology: TopologyName) -> _Outcome:
    """The yardstick on a TPU; without any figures if it was not compiled."""
    for outcome in outcomes:
        if (outcome.kernel, outcome.topology) == (YARDSTICK, topology):
            return outcome
    return _Outcome(kernel=YARDSTICK, topology=topology)


def _of_role(outcome: _Outcome, role: str) -> list[float | None]:
    """Cycles of the main kernels of a pass."""
    return [row.whole for row in outcome.rows if row.role == role]


def _figures(outcomes: list[_Outcome], outcome: _Outcome) -> dict[str, Any]:
    """Everything that is reported of a kernel on a TPU, ready for JSON."""
    yardstick = _yardstick(outcomes, outcome.topology)
    content: dict[str, Any] = {"kernel": outcome.kernel, "topology": outcome.topology}
    if outcome.compiled is None:
        return content | {"failure": str(outcome.failure)}
    return content | {
        "temp_bytes": outcome.compiled.temp_bytes,
        "xla_bytes_accessed": outcome.compiled.xla_bytes,
        "xla_cycles": outcome.xla_cycles,
        "whole": ratio(outcome.cycles, [1.0]),
        "pallas_kernels": [
            dataclasses.asdict(row)
            | {
                "vs_splash": ratio(
                    [row.whole], [r.whole for r in yardstick.rows if r.role and r.role == row.role]
                )
            }
            for row in outcome.rows
        ],
        **{
            f"{role}_kernels_vs_splash": ratio(_of_role(outcome, role), _of_role(yardstick, role))
            for role in ("forward", "backward")
        },
        "pallas_kernels_vs_splash": ratio(outcome.cycles[:-1], yardstick.cycles[:-1]),
        "vs_splash": ratio(outcome.cycles, yardstick.cycles),
    }


def _describe(config: TpuBenchmarkConfig) -> dict[str, Any]:
    """What the figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    names = ("num_heads", "length", "head_size", "dtype", "direction")
    return versions | {name: getattr(config, name) for name in names}


def _write_json(config: TpuBenchmarkConfig, outcomes: list[_Outcome]) -> None:
    assert config.json is not None
    content = {
        "note": _CAVEAT,
        **_describe(config),
        "programs": [_figures(outcomes, outcome) for outcome in outcomes],
    }
    write_figures(config.json, content)


def _print_report(config: TpuBenchmarkConfig, outcomes: list[_Outcome]) -> None:
    title = ", ".join(f"{name} {value}" for name, value in _describe(config).items())
    table = Table(title=f"Compiled, not run: {title}", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("TPU")
    table.add_column("kernel", overflow="fold", min_width=18)
    for name in ("tile", "+ step", "whole", "vs splash", "memory"):
        table.add_column(name, justify="right")
    notes = []
    for outcome in outcomes:
        figures = _figures(outcomes, outcome)
        head = (outcome.topology, outcome.kernel, "", "")
        if "failure" in figures:
            too_large = isinstance(outcome.failure, OutOfMemoryError)
            table.add_row(*head, "", "", "too large" if too_large else "failed")
            notes.append(f"{outcome.kernel} on {outcome.topology}: {outcome.failure}")
            continue
        table.add_row(
            *head,
            _spell(figures["whole"], 1),
            _spell(figures["vs_splash"], 2),
            spell_bytes(figures["temp_bytes"]),
        )
        for row in figures["pallas_kernels"]:
            table.add_row(
                "",
                f"  {_LABEL.sub('', row['name'])}",
                ("" if row["certain"] else "~") + _spell(row["cycles"], 1),
                _spell(row["step_cycles"], 1),
                _spell(row["whole"], 1),
                _spell(row["vs_splash"], 2),
            )
            where = f"{row['name']} on {outcome.topology}"
            if len(row["regions"]) > 1:
                regions = ", ".join(f"{cycles:.1f}" for cycles in row["regions"])
                notes.append(f"{where}: its tiles and other parts take {regions} cycles")
            if not row["certain"]:
                notes.append(f"{where}: ~ a guess, see HotPath.certain")
        for role in ("forward", "backward"):
            if outcome.kernel != YARDSTICK and (times := figures[f"{role}_kernels_vs_splash"]):
                table.add_row("", f"  {role} kernels", "", "", "", _spell(times, 2))
        if outcome.xla_cycles is not None:
            table.add_row("", "  XLA", "", "", _spell(outcome.xla_cycles, 1))
    console = Console(highlight=False)
    console.print(table)
    for note in [*notes, _CAVEAT]:
        console.print(note, markup=False, soft_wrap=True)


def _spell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
