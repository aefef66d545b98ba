"""`python -m mta_jax.plan --config FILE --topology v5p:4x4x4`: plans a run on a TPU slice."""

import os

# libtpu is a compiler here. What it needs for that it reads when JAX is imported.
from mta_jax.hardware.environment import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import itertools
import sys
from collections.abc import Iterable, Iterator

from rich.console import Console

from mta_jax.command_line import parse
from mta_jax.command_line.subcommands import exit_code_of, quiet_logs
from mta_jax.errors import UserError
from mta_jax.files import check_figures, write_figures
from mta_jax.hardware.slices import chip_of, described_devices
from mta_jax.plan.compilation import Plan, compile_plan
from mta_jax.plan.config import PlanConfig
from mta_jax.plan.report import figures, plan_table, ranking
from mta_jax.plan.roofline import roofline
from mta_jax.plan.search import activation_bytes, candidates, changes, easier
from mta_jax.training.config import TrainConfig
from mta_jax.training.mesh import mesh_sizes


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0 where the run fits, 1 where it does not."""
    quiet_logs()
    config, _ = parse(
        PlanConfig,
        arguments,
        prog="mta_jax.plan",
        description="Compile a train step for a TPU slice that need not be there.",
        has_dry_run=False,
    )
    return exit_code_of(lambda: _plan(config), prog="mta_jax.plan")


def _plan(config: PlanConfig) -> int:
    console = Console(highlight=False)
    num_chips = len(described_devices(config.topology, config.num_slices))
    mesh_sizes(config, num_chips)
    if config.json:
        check_figures(config.json)
    if config.search:
        return _search(config, num_chips, console)
    plan = compile_plan(config, config.topology, config.num_slices)
    console.print(plan_table(plan, _title(config, num_chips)))
    console.print(
        "Estimates of the compiler and by arithmetic; nothing was run. Times are bounds that no "
        "run reaches: see mta_jax/plan/roofline.py for what they assume.",
        soft_wrap=True,
    )
    if plan.mesh["data"] % config.num_slices:
        console.print(
            f"More than gradients crosses the network between the {config.num_slices} slices, "
            f"whose speed is in no bound: --mesh.data {config.num_slices} would keep it to them.",
            soft_wrap=True,
        )
    found = {"as it is": plan}
    if not plan.fits:
        for other in _hopeful(easier(config, num_chips), config, num_chips):
            name = changes(config, other)
            try:
                plan = compile_plan(other, config.topology, config.num_slices)
            except UserError as error:
                console.print(f"{name}: {error}", soft_wrap=True)
                continue
            found[name] = plan
            if plan.fits:
                break
        if plan.fits:
            verdict = f"The nearest that does: {list(found)[-1]}"
        else:
            verdict = f"None of {len(found)} ways does: take a larger slice, or --search"
        console.print(f"It does not fit. {verdict}", soft_wrap=True)
    _write(config, found)
    return 0 if found["as it is"].fits else 1


def _title(config: PlanConfig, num_chips: int) -> str:
    slices = f"{config.num_slices} slices" if config.num_slices > 1 else "a slice"
    return f"{num_chips} chips, {slices} of {config.topology}"


def _hopeful(
    ways: Iterable[TrainConfig], config: PlanConfig, num_chips: int
) -> Iterator[TrainConfig]:
    """The first few ways whose activations alone do not fill the memory."""
    memory = chip_of(config.topology).memory
    fitting = (way for way in ways if activation_bytes(way, num_chips) <= memory)
    return itertools.islice(fitting, config.most_programs)


def _search(config: PlanConfig, num_chips: int, console: Console) -> int:
    found: dict[str, Plan] = {}
    for candidate in _hopeful(candidates(config, num_chips), config, num_chips):
        name = changes(config, candidate)
        try:
            found[name] = compile_plan(candidate, config.topology, config.num_slices)
        except UserError as error:
            console.print(f"{name}: {error}", soft_wrap=True)
            continue
        verdict = "fits" if found[name].fits else "does not fit"
        console.print(f"{name}: {verdict}", soft_wrap=True)
    ranked = dict(
        sorted(
            found.items(),
            key=lambda item: roofline(item[1]).seconds if item[1].fits else float("inf"),
        )
    )
    console.print(ranking(ranked))
    _write(config, ranked)
    best = next(iter(ranked.items()), None)
    if best is None or not best[1].fits:
        console.print("None of them fits: take a larger slice, or raise most_programs")
        return 1
    console.print(plan_table(best[1], f"{_title(config, num_chips)}: {best[0]}"))
    return 0


def _write(config: PlanConfig, plans: dict[str, Plan]) -> None:
    if config.json:
        content = {"topology": config.topology}
        write_figures(config.json, content | {"plans": {n: figures(p) for n, p in plans.items()}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
