"""A plan as tables, and as figures."""

import dataclasses
import math
from collections import Counter
from typing import Any

from rich.table import Table

from mta_jax.plan.compilation import Plan
from mta_jax.plan.program_text import KINDS
from mta_jax.plan.roofline import roofline
from mta_jax.training.memory import spell_bytes

_DAY = 86_400

# Arrays of each kind of collective in the file of figures.
_SHOWN = 20


def plan_table(plan: Plan, title: str) -> Table:
    """Everything that is known of one plan."""
    table = Table(title=title, show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    axes = " x ".join(f"{size} {axis}" for axis, size in plan.mesh.items() if size > 1)
    table.add_row("mesh", axes or "1 device")
    table.add_row("parts of a batch", f"{plan.config.accumulate}, remat {plan.config.model.remat}")
    table.add_section()
    table.add_row("parameters, per device", spell_bytes(plan.params_bytes))
    table.add_row("optimiser", spell_bytes(plan.optimizer_bytes))
    if plan.temp_bytes is not None and plan.code_bytes is not None:
        table.add_row("activations and temporaries", spell_bytes(plan.temp_bytes))
        table.add_row("program", spell_bytes(plan.code_bytes))
    table.add_row("peak memory", spell_bytes(plan.peak_bytes))
    table.add_row("of", spell_bytes(plan.memory_bytes))
    if not plan.fits:
        table.add_row("fits", "no")
        return table
    table.add_section()
    sent = sent_by_kind(plan)
    for kind in KINDS:
        if kind in sent:
            count, size = sent[kind]
            table.add_row(f"{kind}, sent per device and step", f"{count:,} in {spell_bytes(size)}")
    bounds = roofline(plan)
    tokens_per_second = plan.tokens / bounds.seconds
    table.add_section()
    table.add_row("tokens per step", f"{plan.tokens:,}")
    table.add_row("model FLOPs per step", f"{plan.flops:.4g}")
    for name in ("arithmetic", "memory", "network"):
        table.add_row(f"{name}, at least", _milliseconds(getattr(bounds, name)))
    table.add_row("step, at least", _milliseconds(bounds.seconds))
    table.add_row("tokens per second, at most", f"{tokens_per_second:,.0f}")
    total = plan.tokens * plan.config.num_steps
    days = total / tokens_per_second / _DAY
    amount = f"{total / 1e9:,.4g}B" if total >= 1e9 else f"{total:,}"
    table.add_row(f"days for {amount} tokens, at least", f"{days:,.2g}")
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3g} ms"


def ranking(plans: dict[str, Plan]) -> Table:
    """Several plans, by the flags that make them."""
    table = Table(title="Ranked by the bound of their step")
    for name in ("settings", "fits", "peak memory", "step, at least"):
        table.add_column(name, justify="left" if name == "settings" else "right")
    for name, plan in plans.items():
        seconds = _milliseconds(roofline(plan).seconds) if plan.fits else "-"
        table.add_row(name, "yes" if plan.fits else "no", spell_bytes(plan.peak_bytes), seconds)
    return table


def sent_by_kind(plan: Plan) -> dict[str, tuple[int, int]]:
    """Of each kind of collective, how many a step runs, and the bytes that each device sends."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for collective in plan.collectives:
        counts[collective.kind] += collective.runs
        sizes[collective.kind] += collective.bytes_sent
    return {kind: (counts[kind], sizes[kind]) for kind in counts}


def _largest(plan: Plan, kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """The largest arrays that a kind of collective results in, each once."""
    arrays = {array for c in plan.collectives if c.kind == kind for array in c.shapes}
    return sorted(arrays, key=lambda array: math.prod(array[1]), reverse=True)[:_SHOWN]


def figures(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    content: dict[str, Any] = {
        name: getattr(plan, name)
        for name in (
            "params_bytes",
            "optimizer_bytes",
            "temp_bytes",
            "code_bytes",
            "peak_bytes",
            "memory_bytes",
            "fits",
            "num_devices",
            "tokens",
            "flops",
        )
    }
    content |= {
        "mesh": dict(plan.mesh),
        "accumulate": plan.config.accumulate,
        "remat": plan.config.model.remat,
    }
    if plan.fits:
        bounds = roofline(plan)
        content["seconds_at_least"] = dataclasses.asdict(bounds) | {"step": bounds.seconds}
        content["collectives"] = {
            kind: {"runs": count, "bytes_sent": size, "largest": _largest(plan, kind)}
            for kind, (count, size) in sent_by_kind(plan).items()
        }
    return content
