"""Static cycles of a TPU kernel, read from the compiler's own schedule.

A TPU core is a statically scheduled VLIW machine: each cycle it issues one bundle, and
where nothing can be issued the compiler puts an empty bundle. libtpu writes that schedule
out with ``--xla_jf_dump_to`` and ``--xla_jf_dump_llo_text``; the listing read here is the
one after register allocation, ``packed-bundles-post-ra``. (``final_bundles`` comes later
but drops the empty bundles of waits, so its length is no number of cycles.)

What is counted: every bundle that one run of the kernel's hot region issues, empty ones
included; loops inside it as often as the listing says they run.

What is not: waits for DMA, the bandwidth of HBM and VMEM, stalls that hazards cause at
run time, and clock rates. The figure is an estimate, and optimistic. It ranks kernels
compiled by the same libtpu; it does not predict times.

The listing is cut into basic blocks: at branch targets, and after each branch with its
delay slots. What a forward branch jumps over is a region (`pl.when` becomes one); what a
backward branch repeats is a loop, the outermost one the loop over the grid. The hot
region is that of an interior tile, which no listing names. It is taken to be the one with
the fewest bundles per matrix product, among regions with at least half as many products
as the one with most: tiles on the diagonal do the same products and a mask besides, or
skip products; initialisation and the final division do few or none. Without any matrix
product it is the region with most bundles.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

_DELAY_SLOTS = 4

_BUNDLE = re.compile(r"\s*(0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*: [>\s]*\{")
_BRANCH = re.compile(r"= sbr\.\w+ (?:\((!?)%(\w+)\) )?target bundleno = (\d+)")
_MATMUL = re.compile(r"= vmatmul\.")
# The counter after its step, compared with a constant, by the name of the predicate.
_EXIT_TEST = re.compile(r"%(\w+) = scmp\.ge\.s32\.totalorder %(s\w+), (\d+) /\* loop exit test \*/")
# Constants in scalar registers. The name ends in the register: %s257_s23 lives in s23.
_STEP = re.compile(r"%(s\w+) = sadd\.s32 (\d+), %s\w+_(s\d+)")
_START = re.compile(r"%s\w+_(s\d+) = smov (?:\(!?%\w+\), )?(\d+)\b")


@dataclasses.dataclass(frozen=True)
class Block:
    """A basic block: bundles that are issued one after the other."""

    start: int
    """Number of its first bundle."""

    end: int
    """Number of the bundle after its last."""

    matmuls: int
    """Matrix-product instructions in it."""

    @property
    def bundles(self) -> int:
        """Cycles of one run."""
        return self.end - self.start


@dataclasses.dataclass(frozen=True)
class Region:
    """Bundles from `start` up to `end` that a branch may skip."""

    start: int
    end: int

    def holds(self, other: "Block | Region") -> bool:
        """Whether the other lies inside."""
        return self.start <= other.start and other.end <= self.end


@dataclasses.dataclass(frozen=True)
class Loop(Region):
    """Bundles that a branch repeats."""

    trips: int | None
    """How often, where the listing says so."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The schedule of one kernel, in blocks.

    `complete` is false where the listing breaks off before the kernel ends.
    """

    blocks: tuple[Block, ...]
    regions: tuple[Region, ...]
    loops: tuple[Loop, ...]
    complete: bool


@dataclasses.dataclass(frozen=True)
class HotPath:
    """What one interior tile takes, in cycles (an estimate, see the module)."""

    cycles: int
    """Bundles of one run of the hot region, loops inside it included."""

    step_cycles: float
    """What a step of the grid takes besides: indices, copies and waits, as far as they
    are instructions. Shared out where the hot region runs several times in a step."""

    steps: int | None
    """Steps of the loop over the grid, those that fill and drain the pipeline included;
    1 without such a loop, None where the listing does not say."""

    regions: Sequence[int]
    """Cycles of each region with matrix products, in the order of the listing: the hot
    one, tiles on the diagonal, and so on."""

    row_cycles: int
    """Cycles of all regions without matrix products together: what starts and ends rows of
    tiles."""

    certain: bool
    """False where the rule could not be followed: the listing is cut, its branches do not
    nest (the hot region is then the block with most matrix products), or a loop on the
    path has an unknown number of trips (and is counted once)."""


def parse_schedule(listing: str, num_bundles: int | None = None) -> Schedule:
    """Cuts a listing into basic blocks.

    Args:
      listing: text of a ``packed-bundles-post-ra`` file.
      num_bundles: length of the kernel, where known from elsewhere; of a listing that
        breaks off earlier the rest is taken as bundles without any branch.

    Returns:
      The blocks in order, and the regions and loops they form.

    Raises:
      ValueError: if the text has no bundles, or some are missing in the middle.
    """
    bundles = _bundles(listing)
    length = max(len(bundles), num_bundles or 0)
    branches = []
    for number, text in enumerate(bundles):
        branches += [(number, match[2], int(match[3])) for match in _BRANCH.finditer(text)]
    cuts = {0, length}
    regions, loops = [], []
    for number, predicate, target in branches:
        after = min(number + 1 + _DELAY_SLOTS, length)
        cuts |= {after, min(target, length)}
        if target > number:
            regions.append(Region(after, min(target, length)))
        else:
            trips = _trips(bundles, number, target, predicate)
            loops.append(Loop(target, after, trips))
    matmuls = [len(_MATMUL.findall(text)) for text in bundles]
    blocks = tuple(
        Block(start, end, sum(matmuls[start:end]))
        for start, end in itertools.pairwise(sorted(cuts))
    )
    return Schedule(blocks, tuple(regions), tuple(loops), complete=length == len(bundles))


def _bundles(listing: str) -> list[str]:
    """The text of each bundle, continued lines joined."""
    bundles: list[str] = []
    for line in listing.splitlines():
        if match := _BUNDLE.match(line):
            if int(match[1], 16) != len(bundles):
                raise ValueError(f"bundle {len(bundles):#x} is missing from the listing")
            bundles.append(line)
        elif bundles:
            bundles[-1] += line
    if not bundles:
        raise ValueError("the listing has no bundles")
    return bundles


def _trips(bundles: list[str], branch: int, target: int, predicate: str | None) -> int | None:
    """Trips of the loop that the branch closes, if it counts up to a constant."""
    body = "\n".join(bundles[target : branch + 1])
    before = "\n".join(bundles[:target])
    test = next((test for test in _EXIT_TEST.finditer(body) if test[1] == predicate), None)
    if test is None:
        return None
    step = next((step for step in _STEP.finditer(body) if step[1] == test[2]), None)
    if step is None:
        return None
    # Before and after the step the counter may be in different registers.
    registers = (step[3], step[1].rpartition("_")[2])
    starts = [start for start in _START.finditer(before) if start[1] in registers]
    if not starts:
        return None
    return math.ceil((int(test[3]) - int(starts[-1][2])) / int(step[2]))


def find_hot_path(schedule: Schedule) -> HotPath:
    """Finds what an interior tile runs, by the rule at the top of this module."""
    if not _nest([*schedule.regions, *schedule.loops]):
        hottest = max(schedule.blocks, key=lambda block: (block.matmuls, block.bundles))
        return HotPath(hottest.bundles, 0.0, None, (), 0, certain=False)
    parts = _parts(schedule)
    costs = {part: _cost(blocks, part, schedule.loops) for part, blocks in parts.items()}
    most = max(cost.matmuls for cost in costs.values())
    if most:
        busy = [part for part, cost in costs.items() if cost.matmuls >= most / 2]
        hot = min(busy, key=lambda part: costs[part].bundles / costs[part].matmuls)
    else:
        hot = max(costs, key=lambda part: costs[part].bundles)

    around = [
        loop
        for loop in schedule.loops
        if loop != hot.grid and loop.holds(hot.region) and not hot.region.holds(loop)
    ]
    step = [
        costs[part]
        for part in parts
        if part.grid == hot.grid and part.region.holds(hot.region) and part != hot
    ]
    with_matmuls = sorted(
        (part for part in parts if costs[part].matmuls), key=lambda part: part.region.start
    )
    return HotPath(
        cycles=costs[hot].bundles,
        step_cycles=sum(cost.bundles for cost in step)
        / math.prod(loop.trips or 1 for loop in around),
        steps=hot.grid.trips if hot.grid else 1,
        regions=tuple(costs[part].bundles for part in with_matmuls),
        row_cycles=sum(
            costs[part].bundles
            for part in parts
            if part.grid == hot.grid
            and not costs[part].matmuls
            and not part.region.holds(hot.region)
        ),
        certain=(
            schedule.complete
            and all(cost.certain for cost in [costs[hot], *step])
            and all(loop.trips is not None for loop in around)
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """A region, less what smaller regions take of it, inside one loop over the grid."""

    region: Region
    grid: Loop | None


def _parts(schedule: Schedule) -> dict[_Part, list[Block]]:
    """The blocks of each part, in order."""
    whole = Region(0, schedule.blocks[-1].end)
    parts: dict[_Part, list[Block]] = {}
    for block in schedule.blocks:
        regions = [region for region in schedule.regions if region.holds(block)]
        loops = [loop for loop in schedule.loops if loop.holds(block)]
        part = _Part(
            min(regions, key=lambda region: region.end - region.start, default=whole),
            max(loops, key=lambda loop: loop.end - loop.start, default=None),
        )
        parts.setdefault(part, []).append(block)
    return parts


@dataclasses.dataclass(frozen=True)
class _Cost:
    bundles: int
    matmuls: int
    certain: bool


def _cost(blocks: list[Block], part: _Part, loops: tuple[Loop, ...]) -> _Cost:
    """What one run of a part takes, with the loops inside it."""
    inner = [loop for loop in loops if loop != part.grid and part.region.holds(loop)]
    bundles, matmuls, certain = 0, 0, True
    for block in blocks:
        trips = [loop.trips for loop in inner if loop.holds(block)]
        runs = math.prod(trip or 1 for trip in trips)
        bundles += runs * block.bundles
        matmuls += runs * block.matmuls
        certain = certain and None not in trips
    return _Cost(bundles, matmuls, certain)


def _nest(regions: list[Region]) -> bool:
    """Whether any two are apart or one inside the other."""
    return all(
        first.end <= second.start
        or second.end <= first.start
        or first.holds(second)
        or second.holds(first)
        for first, second in itertools.combinations(regions, 2)
    )
