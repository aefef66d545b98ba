"""The time of a train step, from what its instructions cost."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from mta_jax.benchmark.step_compile import StepProgram
from mta_jax.benchmark.step_kernels import KernelTime, label_of
from mta_jax.hardware.peak_flops import peak_flops
from mta_jax.hardware.topologies import TOPOLOGIES, Topology, TopologyName
from mta_jax.plan.instruction_costs import Cost
from mta_jax.training.config import TrainConfig
from mta_jax.training.partition import training_flops

# The attention op runs under shard_map, and nothing else does (`mta_jax.parallel.attention`).
_ATTENTION = "shard_map"
# Of the name of an operation, what says only where it is: loops, checkpoints, transformations.
_PLACE = re.compile(r"jit\(train_step\)/|(while/body|closed_call|checkpoint|rematted_computation)/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rest:
    """Seconds of a step outside Pallas kernels, by one way of counting."""

    seconds: float
    """All of it."""

    around_attention: float
    """Of it, what belongs to the attention op."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Instructions of one kind that come from one operation."""

    opcode: str
    operation: str
    around_attention: bool
    runs: int
    roofline: float
    """Seconds of a step, by arithmetic and traffic."""
    compiler: float
    """Seconds of a step, by the compiler's cycles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A Pallas kernel in a step."""

    label: str
    role: str
    runs: int
    seconds: float
    """Of all runs in a step."""
    is_certain: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A train step on one chip. Times are in seconds of a step."""

    kind: str
    topology: TopologyName
    kernels: list[Kernel]
    roofline: Rest
    compiler: Rest
    groups: list[Group]
    flops: int
    """Of the matrix products outside Pallas kernels."""
    model_flops: float
    """What the formulas ask for, of one chip (`mta_jax.models.flops`)."""
    peak: float
    """FLOP/s of a chip."""
    transfers: float
    """All bytes, of asynchronous copies too, at the bandwidth of the memory."""
    network: float
    """What is sent to other chips, at the bandwidth of the links."""

    def kernel_seconds(self, role: str) -> float:
        """Of all kernels of a pass."""
        return sum(kernel.seconds for kernel in self.kernels if kernel.role == role)

    def step(self, rest: Rest) -> float:
        """The whole step, by a way of counting the rest."""
        return sum(kernel.seconds for kernel in self.kernels) + rest.seconds

    def utilisation(self, rest: Rest) -> float:
        """Model FLOPs in that time, over those of the chip at its best."""
        return self.model_flops / (self.step(rest) * self.peak)


def estimate_step(
    kind: str,
    topology_name: TopologyName,
    config: TrainConfig,
    program: StepProgram,
    times: Mapping[str, KernelTime],
    rows: int,
) -> Estimate:
    """Adds up a step.

    Args:
      kind: of attention.
      topology_name: the TPU.
      config: the run.
      program: its compiled step.
      times: of each Pallas kernel in it, by label.
      rows: sequences on a chip.
    """
    topology = TOPOLOGIES[topology_name]
    peak = peak_flops(topology.device_kind)
    assert peak is not None
    rest = [cost for cost in program.costs if cost.role == "computation"]
    groups = _groups(rest, topology, peak)
    moved = sum(cost.runs * cost.bytes for cost in program.costs)
    return Estimate(
        kind=kind,
        topology=topology_name,
        kernels=_kernels(program.costs, times, rows),
        roofline=_rest((group.roofline, group.around_attention) for group in groups),
        compiler=_rest((group.compiler, group.around_attention) for group in groups),
        groups=groups,
        flops=sum(cost.runs * cost.flops for cost in rest),
        model_flops=training_flops(config) * rows * config.data.row_length,
        peak=peak,
        transfers=moved / topology.bandwidth,
        network=program.bytes_sent / topology.link_bandwidth,
    )


def _kernels(costs: list[Cost], times: Mapping[str, KernelTime], rows: int) -> list[Kernel]:
    kernels = []
    for label, time in sorted(times.items()):
        runs = sum(c.runs for c in costs if c.role == "kernel" and label_of(c.name) == label)
        kernels.append(
            Kernel(
                label=label,
                role=time.role,
                runs=runs,
                seconds=runs * rows * time.seconds,
                is_certain=time.is_certain,
            )
        )
    return kernels


def _groups(costs: list[Cost], topology: Topology, peak: float) -> list[Group]:
    """Instructions by what they do and where they come from, the costliest first."""
    groups: dict[tuple[str, str], Group] = {}
    for cost in costs:
        key = (cost.opcode, _PLACE.sub("", cost.op_name))
        group = groups.get(key) or Group(
            opcode=key[0],
            operation=key[1],
            around_attention=_ATTENTION in cost.op_name,
            runs=0,
            roofline=0.0,
            compiler=0.0,
        )
        seconds = max(cost.flops / peak, cost.bytes / topology.bandwidth)
        # Both cores of a v5p share an instruction: its products never take fewer of these cycles
        # than the peak of the whole chip asks for.
        groups[key] = dataclasses.replace(
            group,
            runs=group.runs + cost.runs,
            roofline=group.roofline + cost.runs * seconds,
            compiler=group.compiler + cost.runs * (cost.cycles or 0) / topology.clock,
        )
    return sorted(groups.values(), key=lambda group: -max(group.roofline, group.compiler))


def _rest(parts: Iterable[tuple[float, bool]]) -> Rest:
    parts = list(parts)
    return Rest(
        seconds=sum(seconds for seconds, _ in parts),
        around_attention=sum(seconds for seconds, is_around in parts if is_around),
    )
