"""Cycles of a compiled program in relation to the logits that it computes."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from mta_jax.benchmark.tpu_compile import Compiled
from mta_jax.benchmark.tpu_kernels import Shapes
from mta_jax.hardware.topologies import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Static cycles of one Pallas kernel. Cycles are per 128 x 128 logits per head."""

    name: str
    """The kernel's name in the compiled program."""

    role: Literal["forward", "backward"] | None
    """The pass it is the main kernel of; None for one that prepares or finishes, whose
    cycles are spread over all the logits that a causal mask leaves."""

    cycles: float | None
    """Of an interior tile; None where the number of grid steps is not known."""

    step_cycles: float | None
    """What a step of the grid takes besides."""

    regions: tuple[float, ...]
    """Of each region with matrix products, in the order of the source: tiles on the
    diagonal, say. Per 128 x 128 logits of a whole tile."""

    whole: float | None
    """Of the whole pass, per 128 x 128 logits that a causal mask leaves; None where the
    regions are not those of the source."""

    certain: bool
    """Whether the schedule could be read by the rule (see `HotPath.certain`)."""


def rows_of(compiled: Compiled, shapes: Shapes, topology: Topology) -> list[Row]:
    """Puts the cycles of each Pallas kernel in relation to the logits.

    Args:
      compiled: what the compiler says of the program.
      shapes: what the program is compiled for.
      topology: the TPU it is compiled for; cycles of all its cores count.

    Returns:
      One row for each Pallas kernel, in the order of the program.
    """
    blocks = causal_blocks(shapes)
    rows = []
    for kernel in compiled.pallas_kernels:
        path, tile = kernel.hot_path, kernel.tile
        whole = None
        if tile is not None:
            share: float | None = 1 / tile.blocks
            if len(tile.runs) == len(path.regions):
                pairs = zip(tile.runs, path.regions, strict=True)
                cycles: float = sum(runs * region for runs, region in pairs)
                passes = shapes.num_heads / tile.heads
                cycles += tile.rows * path.row_cycles + tile.steps * path.step_cycles
                whole = cycles * passes / blocks
        else:
            share = None if path.steps is None else topology.cores * path.steps / blocks
            if share is not None:
                whole = (path.cycles + path.step_cycles) * share
        rows.append(
            Row(
                name=kernel.name,
                role=tile.role if tile else None,
                cycles=None if share is None else path.cycles * share,
                step_cycles=None if share is None else path.step_cycles * share,
                regions=() if tile is None else tuple(n / tile.blocks for n in path.regions),
                whole=whole,
                certain=path.certain,
            )
        )
    return rows


def xla_cycles(compiled: Compiled, shapes: Shapes, topology: Topology) -> float | None:
    """What XLA's part of a program takes at least, in the unit of `Row.whole`.

    That is the time of its bytes at the bandwidth of the memory. None where there is no
    Pallas kernel at all: such programs run loops, whose bytes are counted once.
    """
    if not compiled.pallas_kernels:
        return None
    seconds = compiled.xla_bytes / topology.bandwidth
    return seconds * topology.clock * topology.cores / causal_blocks(shapes)


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """How many times the sum of theirs ours is; None if any is not known."""
    if not ours or not theirs or None in ours or None in theirs:
        return None
    return sum(cycles or 0 for cycles in ours) / sum(cycles or 0 for cycles in theirs)


def causal_blocks(shapes: Shapes) -> float:
    """Logits that a causal mask leaves, in blocks of 128 x 128, of all heads."""
    return shapes.num_heads * shapes.length * (shapes.length + 1) / 2 / 128**2
