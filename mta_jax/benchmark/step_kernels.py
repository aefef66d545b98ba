"""Times of the Pallas kernels in a train step, from the static cycles of each."""

import dataclasses
import re
from collections.abc import Callable, Collection
from typing import Literal

from mta_jax.benchmark.tpu_compile import Compiled
from mta_jax.benchmark.tpu_cycles import causal_blocks, rows_of
from mta_jax.benchmark.tpu_kernels import KERNELS, Shapes
from mta_jax.errors import UserError
from mta_jax.hardware.topologies import Topology

# What JAX adds to the name of a kernel.
_ADDED = re.compile(r"^(transpose_|jvp_)+|_*\.\d+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelTime:
    """A Pallas kernel on one chip."""

    role: Literal["forward", "backward"]
    """The pass it belongs to; one that prepares or finishes counts as forward."""

    seconds: float
    """Of one sequence."""

    is_certain: bool
    """Whether its schedule could be read by the rule (see `HotPath.certain`)."""


def label_of(name: str) -> str:
    """The name of a kernel, from that of an instruction that runs it."""
    return _ADDED.sub("", name)


def kernel_times(
    labels: Collection[str],
    shapes: Shapes,
    topology: Topology,
    compile_kernel: Callable[[str], Compiled],
) -> dict[str, KernelTime]:
    """Times of the kernels that a train step runs.

    Args:
      labels: of the kernels.
      shapes: of one sequence.
      topology: the TPU.
      compile_kernel: compiles one of `KERNELS`; all that a label belongs to are.

    Raises:
      UserError: where nothing is known of a kernel.
    """
    times = {}
    for kernel in KERNELS:
        if not any(part in label for label in labels for part in _parts(kernel, shapes)):
            continue
        for row in rows_of(compile_kernel(kernel), shapes, topology):
            if row.whole is not None:
                cycles = row.whole * causal_blocks(shapes)
                times[label_of(row.name)] = KernelTime(
                    role=row.role or "forward",
                    seconds=cycles / (topology.clock * topology.cores),
                    is_certain=row.certain,
                )
    if unknown := sorted(set(labels) - set(times)):
        raise UserError(f"the cycles of the Pallas kernel {unknown[0]} are not known")
    return {label: times[label] for label in labels}


def _parts(kernel: str, shapes: Shapes) -> Collection[str]:
    """Parts of the names of the main kernels of an attention."""
    try:
        return KERNELS[kernel](shapes).tiles
    except NotImplementedError:
        return ()
