"""What runs in a compiled program and what it sends between devices, from its text.

XLA's own cost analysis counts the body of a loop once. Here every computation counts as
often as it runs: loops as often as the compiler notes beside them, or as their condition
says, which for those that JAX makes is a comparison of a counter with a constant.
"""

import dataclasses
import math
import re
from collections import defaultdict

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) .*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([^,\s]+), body=%?([^,\s]+)")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([^,\s)}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONTROL = re.compile(r" (?:call|conditional)\(")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BOUND = re.compile(r"= [su]\d+\[\]\S* constant\((\d+)\)")
_COLLECTIVE = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z\d]*\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """An instruction that sends.

    Attributes:
      kind: one of `KINDS`.
      shapes: what it results in on each device, of a reduce-scatter what it takes: (dtype, shape)
        of each array.
      runs: how often a step runs it.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    runs: int

    @property
    def bytes_sent(self) -> int:
        """By each device, in all runs, as rings do it: an all-reduce sends everything twice."""
        size = sum(item_bytes(dtype) * math.prod(shape) for dtype, shape in self.shapes)
        return round(self.runs * size * (2 if self.kind == "all-reduce" else 1))


def collectives(text: str) -> list[Collective]:
    """Every collective of a compiled program.

    Args:
      text: of the program, as `jax.stages.Compiled.as_text` gives it.
    """
    computations, entry = computations_of(text)
    runs = count_runs(computations, entry)
    found = []
    in_chains = set()
    # What is in a loop last: a chain that begins before it and ends after it is sent once, while
    # the loop runs.
    for name, times in sorted(runs.items(), key=lambda item: item[1]):
        for line in computations[name]:
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            channel = _CHANNEL.search(line)
            if channel and "chain_id=" in line:
                # TPU's compiler repeats one that goes on behind several fusions in each of them.
                if channel[1] in in_chains:
                    continue
                in_chains.add(channel[1])
            shapes = _arrays(match[1])
            if match[2] == "reduce-scatter":
                operands = line[match.end() :].partition(")")[0]
                shapes = _of_operands(operands, computations[name])
            elif match[3] and match[2] != "all-reduce":
                # Operands, then results, then what keeps the two halves together.
                arrays = [shape for shape in shapes if shape != ("u32", ())]
                shapes = arrays[len(arrays) // 2 :]
            found.append(Collective(match[2], tuple(shapes), times))
    return found


def _arrays(types: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (dtype, tuple(int(n) for n in sizes.split(",") if n))
        for dtype, sizes in _ARRAY.findall(types)
    ]


def _of_operands(operands: str, lines: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Arrays that instructions of a computation result in, given as ``%a, %b``."""
    shapes = []
    for name in (operand.split()[-1].lstrip("%") for operand in operands.split(",")):
        definition = re.compile(rf"^\s*(?:ROOT )?%?{re.escape(name)} = (.+?) [\w-]+\(")
        matches = (definition.match(line) for line in lines)
        shapes += next((_arrays(match[1]) for match in matches if match), [])
    return shapes


def computations_of(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by name, and the name of the first to run."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return computations, entry


def count_runs(
    computations: dict[str, list[str]], entry: str, *, inside: bool = True
) -> dict[str, int]:
    """How often each computation runs.

    Args:
      computations: lines of each by name.
      entry: the one that runs first, once.
      inside: count those, too, that are the inside of an instruction, such as a fusion; all
        branches of a conditional count either way.
    """
    runs: dict[str, int] = defaultdict(int)
    _count(entry, 1, computations, runs, inside=inside)
    return runs


def _count(
    name: str,
    times: int,
    computations: dict[str, list[str]],
    runs: dict[str, int],
    *,
    inside: bool,
) -> None:
    """Adds how often a computation and all that it calls run."""
    if name not in computations:
        return
    runs[name] += times
    for line in computations[name]:
        if match := _WHILE.search(line):
            condition, body = match[1], match[2]
            known = _KNOWN_TRIPS.search(line)
            trips = int(known[1]) if known else _trips(computations.get(condition, []))
            _count(body, times * trips, computations, runs, inside=inside)
            continue
        if not inside and not _CONTROL.search(line):
            continue
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for other in called:
            _count(other, times, computations, runs, inside=inside)


def _trips(condition: list[str]) -> int:
    """Runs of a loop; 1 where its condition is no comparison with a constant."""
    bounds = [int(bound) for line in condition for bound in _BOUND.findall(line)]
    return max(bounds, default=1)


def item_bytes(dtype: str) -> float:
    """Bytes of an element of a dtype, in XLA's words."""
    if dtype == "pred":
        return 1
    return int(re.sub(r"\D", "", dtype)) / 8
