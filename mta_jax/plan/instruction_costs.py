"""What each instruction of a compiled program costs: FLOPs, bytes, and how often it runs.

XLA's own cost analysis counts the body of a loop once; here every instruction has its number of
runs. Only instructions that are run one after the other count, not the inside of fusions, whose
products and slices are looked up instead.

- FLOPs are those of matrix products alone (`product_flops`).
- Bytes are those of operands and results in the memory of the device, as they are laid out; what
  lies in memory on the chip costs none. Of a slice only what it takes counts, of an update in
  place only what it writes, also inside a fusion. Collectives that go on inside fusions have none.
- Parameters, tuples, bitcasts and the like cost nothing.
"""

import dataclasses
import re
from typing import Literal

from mta_jax.plan.instructions import Array, Instruction, instructions_of
from mta_jax.plan.product_flops import product_flops
from mta_jax.plan.program_text import KINDS, computations_of, count_runs

Role = Literal["computation", "transfer", "network", "kernel"]

_FREE = frozenset(
    {
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "domain"),
        *("while", "call", "conditional", "after-all", "add-dependency", "opt-barrier"),
        *("partition-id", "replica-id"),
    }
)
# Names for memory that is there already, and promises.
_FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding")
_SLICES = ("slice", "dynamic-slice", "gather")
_SAME_MEMORY = ("bitcast", "reshape")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_KERNEL_TARGET = "tpu_custom_call"
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """An instruction, and what one run of it costs.

    Attributes:
      name: of the instruction.
      opcode: what it does, in XLA's words.
      op_name: where in the traced function it comes from; empty where that is not noted.
      role: "transfer" goes on beside other instructions, between the memory of the device and
        that on the chip; "network" sends between devices; "kernel" is a Pallas kernel.
      runs: how often a step runs it.
      flops: of its matrix products.
      bytes: that it reads from and writes to the memory of the device.
      cycles: the compiler's own estimate; None where it gives none.
    """

    name: str
    opcode: str
    op_name: str
    role: Role
    runs: int
    flops: int
    bytes: float
    cycles: int | None


def instruction_costs(text: str) -> list[Cost]:
    """What every instruction of a compiled program costs that costs something.

    Args:
      text: of the program, as `jax.stages.Compiled.as_text` gives it.
    """
    return _Program(text).costs()


class _Program:
    """The computations of a program, each read when it is first asked for."""

    def __init__(self, text: str) -> None:
        self._lines, entry = computations_of(text)
        self._runs = count_runs(self._lines, entry, inside=False)
        self._read: dict[str, dict[str, Instruction]] = {}

    def costs(self) -> list[Cost]:
        return [
            cost
            for name, runs in self._runs.items()
            for instruction in self._computation(name).values()
            if (cost := self._cost(instruction, self._computation(name), runs))
        ]

    def _computation(self, name: str) -> dict[str, Instruction]:
        if name not in self._read:
            self._read[name] = instructions_of(self._lines.get(name, []))
        return self._read[name]

    def _cost(
        self, instruction: Instruction, beside: dict[str, Instruction], runs: int
    ) -> Cost | None:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return None
        target = _TARGET.search(instruction.attributes)
        if target and target[1] in _FREE_TARGETS:
            return None
        role: Role = "computation"
        if _is_collective(instruction):
            role, size = "network", 0.0
        elif opcode.endswith("-start"):
            role, size = "transfer", _moved(instruction)
        else:
            size = self._bytes(instruction, beside)
        if target and target[1] == _KERNEL_TARGET:
            role = "kernel"
        cycles = _CYCLES.search(instruction.attributes)
        return Cost(
            name=instruction.name,
            opcode=opcode,
            op_name=instruction.op_name,
            role=role,
            runs=runs,
            flops=self._flops(instruction, beside),
            bytes=size,
            cycles=int(cycles[1]) if cycles else None,
        )

    def _flops(self, instruction: Instruction, beside: dict[str, Instruction]) -> int:
        flops = product_flops(instruction, lambda name: beside[name].results[0])
        if instruction.opcode == "fusion" and instruction.calls:
            inside = self._computation(instruction.calls)
            flops += sum(self._flops(inner, inside) for inner in inside.values())
        return flops

    def _bytes(self, instruction: Instruction, beside: dict[str, Instruction]) -> float:
        updates = self._updates(instruction, beside)
        total = sum(
            array.bytes if update is None else update
            for array, update in zip(instruction.results, updates, strict=True)
            if array.is_in_hbm
        )
        # One that is taken twice is read once.
        for name in dict.fromkeys(instruction.operands):
            operand = beside.get(name)
            sizes = [array.bytes for array in operand.results if array.is_in_hbm] if operand else []
            if sizes:
                total += min(sum(sizes), self._read_of(name, instruction))
        return total

    def _read_of(self, name: str, user: Instruction) -> float:
        """Bytes at most that an instruction reads of an operand."""
        if user.opcode in _SLICES and user.operands[0] == name:
            return sum(array.bytes for array in user.results)
        if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            return 0
        if user.opcode == "tuple" or _is_collective(user):
            return 0
        if user.opcode != "fusion" or not user.calls:
            return float("inf")
        inside = self._computation(user.calls)
        numbers = {str(n) for n, operand in enumerate(user.operands) if operand == name}
        return sum(
            self._read_of_all(inner.name, inside)
            for inner in inside.values()
            if inner.opcode == "parameter" and inner.operands[0] in numbers
        )

    def _read_of_all(self, name: str, computation: dict[str, Instruction]) -> float:
        """Bytes at most that all instructions of a computation read of one of them."""
        total = 0.0
        for user in computation.values():
            if name in user.operands:
                if user.opcode in _SAME_MEMORY:
                    total += self._read_of_all(user.name, computation)
                else:
                    total += self._read_of(name, user)
        return total

    def _updates(
        self, instruction: Instruction, computation: dict[str, Instruction]
    ) -> list[float | None]:
        """For each result that is updated in place, the bytes of the update; None for others.

        What a fusion hands on as it is has none, nor has what a collective in it receives.
        """
        operands = [computation[name] for name in instruction.operands if name in computation]
        if instruction.opcode == "tuple":
            return [size for operand in operands for size in self._updates(operand, computation)]
        if instruction.opcode == "bitcast" and operands:
            return self._updates(operands[0], computation)
        if instruction.opcode == "parameter" or _is_collective(instruction):
            return [0.0] * len(instruction.results)
        if instruction.opcode == "dynamic-update-slice" and len(operands) > 1:
            return [sum(array.bytes for array in operands[1].results)]
        if instruction.opcode == "fusion" and instruction.calls:
            inside = self._computation(instruction.calls)
            root = next((inner for inner in inside.values() if inner.is_root), None)
            if root:
                return self._updates(root, inside)
        return [None] * len(instruction.results)


def _is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in KINDS


def _moved(instruction: Instruction) -> float:
    """Bytes of an asynchronous copy at its ends in the memory of the device."""
    arrays = [array for array in instruction.results if array.shape]
    if not arrays:
        return 0
    size = min(array.bytes for array in arrays)
    return size * min(2, sum(array.is_in_hbm for array in _ends(arrays)))


def _ends(arrays: list[Array]) -> list[Array]:
    """Where a copy is from and where it goes to: what it takes comes first."""
    return [arrays[0], arrays[-1]]
