"""Estimates of train steps as tables, and as figures."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mta_jax.benchmark.step_estimate import Estimate, Rest
from mta_jax.errors import UserError
from mta_jax.files import write_figures

_YARDSTICK = "transformer"

_ASSUMPTIONS = (
    "forward, backward: Pallas kernels of attention. rest: all other instructions; of them, "
    "attention: those around its kernels. times: the Transformer's step. MFU: model FLOPs "
    "utilisation that it would be.",
    "Nothing was run: these are estimates. They assume:",
    "- Kernels take the static cycles of their schedules at the chip's clock, shared evenly by its "
    "cores, with every row one whole document. Waits for memory are not in them. They run as often "
    "as in the compiled program.",
    "- Other instructions run one after the other, as often as their loops do. By roofline each "
    "takes the longer of the FLOPs of its matrix products at the bfloat16 peak and its bytes in "
    "HBM at full bandwidth; arithmetic that is no matrix product, and memory on the chip, take "
    "no time. By compiler each takes the cycles that libtpu notes beside it, its own estimate.",
    "- Asynchronous copies between HBM and the chip go on beside that, and so does all that is "
    "sent to other chips: neither is in the step.",
)


def print_report(config: Any, estimates: list[Estimate], failures: Mapping[str, UserError]) -> None:
    """Prints a table for each TPU, what failed, and what is assumed.

    Args:
      config: what was asked for, a `StepConfig`.
      estimates: in the order of the tables.
      failures: what became of the others, by name.
    """
    console = Console(highlight=False)
    for topology in config.topologies:
        of_topology = [estimate for estimate in estimates if estimate.topology == topology]
        if of_topology:
            console.print(_table(config, of_topology))
            for estimate in of_topology:
                _print_notes(console, config, estimate)
    for name, failure in failures.items():
        console.print(f"{name}: {failure}", markup=False, soft_wrap=True)
    console.print(", ".join(f"{name} {version}" for name, version in _versions().items()))
    for line in _ASSUMPTIONS:
        console.print(line, markup=False, soft_wrap=True)


def write_json(
    path: str, config: Any, estimates: list[Estimate], failures: Mapping[str, UserError]
) -> None:
    """Writes everything that is known; times are in milliseconds. See `print_report`."""
    content = {
        "note": " ".join(_ASSUMPTIONS),
        **_versions(),
        "config": dataclasses.asdict(config),
        "steps": [_figures(estimates, estimate) for estimate in estimates],
        "failures": {name: str(failure) for name, failure in failures.items()},
    }
    write_figures(path, content)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}


def _ways(estimate: Estimate) -> dict[str, Rest]:
    """Each way of counting the rest."""
    return {"roofline": estimate.roofline, "compiler": estimate.compiler}


def _times(estimates: list[Estimate], estimate: Estimate, way: str) -> float | None:
    """How many times the Transformer's step this one is, counted in the same way."""
    for other in estimates:
        if (other.kind, other.topology) == (_YARDSTICK, estimate.topology):
            return estimate.step(_ways(estimate)[way]) / other.step(_ways(other)[way])
    return None


def _table(config: Any, estimates: list[Estimate]) -> Table:
    table = Table(
        title=(
            f"A train step on {estimates[0].topology}, not run: ms with "
            f"{config.rows} x {config.length:,} tokens on a chip"
        ),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,  # it fits into 80 columns
    )
    table.add_column("kind", no_wrap=True)
    table.add_column("rest by", no_wrap=True)
    columns = ("forward", "backward", "rest", "attention", "step", "times", "MFU")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for estimate in estimates:
        for way, rest in _ways(estimate).items():
            times = _times(estimates, estimate, way)
            table.add_row(
                estimate.kind,
                way,
                *(_ms(estimate.kernel_seconds(role)) for role in ("forward", "backward")),
                _ms(rest.seconds),
                _ms(rest.around_attention),
                _ms(estimate.step(rest)),
                "" if times is None else f"{times:.2f}",
                f"{100 * estimate.utilisation(rest):.0f} %",
            )
    return table


def _print_notes(console: Console, config: Any, estimate: Estimate) -> None:
    def note(text: str) -> None:
        console.print(f"{estimate.kind}: {text}", markup=False, soft_wrap=True)

    note(
        f"beside that, all traffic to HBM {_ms(estimate.transfers)} ms, network "
        f"{_ms(estimate.network)} ms, if at full bandwidth"
    )
    for kernel in estimate.kernels:
        if not kernel.is_certain:
            note(f"cycles of {kernel.label} are a guess, see HotPath.certain")
    for group in estimate.groups[: config.groups]:
        note(
            f"{group.opcode} of {group.operation or 'no name'}: {group.runs} runs, "
            f"{_ms(group.roofline)} ms by roofline, {_ms(group.compiler)} by compiler"
        )


def _figures(estimates: list[Estimate], estimate: Estimate) -> dict[str, Any]:
    return {
        "kind": estimate.kind,
        "topology": estimate.topology,
        **{
            way: {
                "rest_ms": 1e3 * rest.seconds,
                "around_attention_ms": 1e3 * rest.around_attention,
                "step_ms": 1e3 * estimate.step(rest),
                "times_transformer": _times(estimates, estimate, way),
                "model_flops_utilisation": estimate.utilisation(rest),
            }
            for way, rest in _ways(estimate).items()
        },
        "kernels": [
            {
                "name": kernel.label,
                "role": kernel.role,
                "runs": kernel.runs,
                "ms": 1e3 * kernel.seconds,
                "is_certain": kernel.is_certain,
            }
            for kernel in estimate.kernels
        ],
        "product_flops_outside_kernels": estimate.flops,
        "model_flops": estimate.model_flops,
        "hbm_traffic_ms": 1e3 * estimate.transfers,
        "network_ms": 1e3 * estimate.network,
        "groups": [
            {
                "opcode": group.opcode,
                "operation": group.operation,
                "around_attention": group.around_attention,
                "runs": group.runs,
                "roofline_ms": 1e3 * group.roofline,
                "compiler_ms": 1e3 * group.compiler,
            }
            for group in estimate.groups
        ],
    }


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"
