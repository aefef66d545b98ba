"""Compiles one program for a TPU that need not be there; a process of its own.

libtpu reads its flags once, when it is first used, so each program that is to leave a
schedule behind gets a fresh process. `compile_in_subprocess` starts it.
"""

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mta_jax.benchmark.compiler_process import answer, run_compiler
from mta_jax.benchmark.schedule import HotPath, find_hot_path, parse_schedule
from mta_jax.benchmark.tpu_kernels import KERNELS, Shapes, Tile
from mta_jax.errors import UserError
from mta_jax.hardware.topologies import TopologyName, abstract_mesh
from mta_jax.ops.target import targeting

_PALLAS_CALL = re.compile(r'%(\S+) = .*custom_call_target="tpu_custom_call".*')
_ESTIMATED_BYTES = re.compile(r'"cost_estimate":\{[^}]*"bytes_accessed":"(\d+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PallasKernel:
    """A Pallas kernel of a compiled program."""

    name: str
    """Name of its instruction in the compiled program."""

    tile: Tile | None
    """What its hot region computes; None for one that prepares or finishes."""

    hot_path: HotPath


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler says of a program, for one device."""

    temp_bytes: int
    """Memory in HBM besides arguments and outputs."""

    xla_bytes: int
    """Bytes accessed by the part outside Pallas kernels, in XLA's cost model, which counts
    the body of a loop once."""

    pallas_kernels: list[PallasKernel]


def compile_in_subprocess(
    kernel: str, topology: TopologyName, shapes: Shapes, *, timeout: float
) -> Compiled:
    """Compiles a kernel of the registry in a process of its own.

    The flags in this process's `XLA_FLAGS` and `LIBTPU_INIT_ARGS` are not passed on:
    figures are those of the compiler's defaults. The compiler's dumps lie in a temporary
    folder meanwhile.

    Args:
      kernel: name in `KERNELS`.
      topology: the TPU to compile for.
      shapes: what to compile it for.
      timeout: seconds after which it is given up.

    Raises:
      OutOfMemoryError: if the program needs more memory than the TPU has.
      UserError: if it does not compile otherwise, or not in time.
    """
    request = [kernel, topology, dataclasses.asdict(shapes)]
    content = run_compiler(__name__, request, timeout=timeout)
    content["pallas_kernels"] = [
        PallasKernel(
            name=kernel["name"],
            # JSON has no tuples.
            tile=tile and Tile(**tile | {"runs": tuple(tile["runs"])}),
            hot_path=HotPath(**kernel["hot_path"]),
        )
        for kernel in content["pallas_kernels"]
        for tile in [kernel["tile"]]
    ]
    return Compiled(**content)


def _compile(kernel: str, topology: TopologyName, shapes: Shapes, folder: Path) -> Compiled:
    """Compiles in this process, whose libtpu may not have been used before."""
    program = KERNELS[kernel](shapes)
    os.environ["LIBTPU_INIT_ARGS"] = _dump_flags(folder) if program.tiles else ""
    mesh = abstract_mesh(topology)
    sharding = NamedSharding(mesh, PartitionSpec())
    arguments = [
        jax.ShapeDtypeStruct(argument.shape, argument.dtype, sharding=sharding)
        for argument in program.arguments
    ]
    with targeting(mesh.devices.item()):
        lowered = jax.jit(program.function).lower(*arguments)
    compiled = lowered.compile()
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if memory is None or cost is None or text is None:
        raise UserError("this libtpu tells neither memory nor cost")
    calls = list(_PALLAS_CALL.finditer(text))
    # What the authors of Pallas kernels declare is part of the sum.
    declared = sum(int(size) for call in calls for size in _ESTIMATED_BYTES.findall(call[0]))
    return Compiled(
        temp_bytes=memory.temp_size_in_bytes,
        xla_bytes=round(cost["bytes accessed"]) - declared,
        pallas_kernels=[
            PallasKernel(
                name=call[1],
                tile=next((t for name, t in program.tiles.items() if name in call[1]), None),
                hot_path=_read_hot_path(folder, call[1]),
            )
            for call in calls
        ],
    )


def _dump_flags(folder: Path) -> str:
    """Flags of libtpu that write schedules to a folder.

    They are only for programs with Pallas kernels: a large program of XLA's takes
    minutes longer with them.
    """
    return (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        # Of some seventy listings for each part of the program.
        "--xla_jf_dump_llo_pass_label_regex=(packed-bundles-post-ra|pre-delay.*)"
    )


def _read_hot_path(folder: Path, name: str) -> HotPath:
    """The hot path of a Pallas kernel, from what libtpu wrote."""
    listings = list(folder.glob(f"*-{name}-*[0-9]-packed-bundles-post-ra.txt"))
    if not listings:
        raise UserError(f"libtpu wrote no schedule of the Pallas kernel {name}")
    # One row per bundle, and complete where the listing is cut.
    tables = list(folder.glob(f"*-{name}-*-pre-delay_hlo-static-per-bundle-utilization.txt"))
    num_bundles = None
    if tables:
        rows = tables[0].read_text(encoding="utf-8").partition("== UTILIZATION:\n")[2]
        num_bundles = len(rows.splitlines())
    return find_hot_path(parse_schedule(listings[0].read_text(encoding="utf-8"), num_bundles))


def _answer(request: list[Any], folder: Path) -> dict[str, Any]:
    kernel, topology, shapes = request
    return dataclasses.asdict(_compile(kernel, topology, Shapes(**shapes), folder))


if __name__ == "__main__":
    answer(sys.argv[1], _answer)
