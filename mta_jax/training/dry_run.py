"""What a run would be, without allocating it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from mta_jax.command_line.plain import to_yaml
from mta_jax.data import check_data
from mta_jax.errors import ConfigError
from mta_jax.training.config import TrainConfig, runs_of
from mta_jax.training.memory import num_bytes, spell_bytes
from mta_jax.training.run_folder import check_run_folder
from mta_jax.training.state import make_program

_PARTS = {
    "embedding": "embedding",
    "head": "output layer",
    "pre_kq": "key-query kernels",
    "post_kq": "key-query kernels",
    "pre_head": "head-mixing kernels",
    "post_head": "head-mixing kernels",
    "group_norm": "group norm and gates",
    "attention": "attention projections",
    "mlp": "feed-forward",
    "attention_norm": "norms",
    "mlp_norm": "norms",
    "final_norm": "norms",
}
_LAMBDAS = "differential lambdas"


def count_by_part(params: Mapping[str, Any]) -> dict[str, int]:
    """Number of parameters of each part of the model."""
    counts = dict.fromkeys([*_PARTS.values(), _LAMBDAS], 0)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [str(entry.key) for entry in path]
        if names[-1].startswith("lambda_"):
            part = _LAMBDAS
        else:
            # The innermost name that stands for a part: a kernel inside an attention
            # is a kernel.
            part = next(_PARTS[name] for name in reversed(names) if name in _PARTS)
        counts[part] += math.prod(leaf.shape)
    return {part: count for part, count in counts.items() if count}


def print_dry_run(config: TrainConfig) -> None:
    """Prints the settings, then parameters by part and memory, for each kind asked for."""
    console = Console(highlight=False)
    console.print(to_yaml(config), markup=False, soft_wrap=True)
    for name, run_config in runs_of(config).items():
        state = make_program(run_config).abstract_state
        table = Table(title=f"Parameters: {name}")
        table.add_column("part")
        table.add_column("parameters", justify="right")
        counts = count_by_part(state["params"])
        for part, count in counts.items():
            table.add_row(part, f"{count:,}")
        table.add_section()
        table.add_row("total", f"{sum(counts.values()):,}")
        table.add_section()
        table.add_row("memory of parameters", spell_bytes(num_bytes(state["params"])))
        table.add_row("memory of optimiser", spell_bytes(num_bytes(state["opt_state"])))
        if "ema" in state:
            table.add_row("memory of moving average", spell_bytes(num_bytes(state["ema"])))
        console.print(table)
    folder = Path(config.run_dir).expanduser()
    try:
        there = check_run_folder(folder, config)
        found = f"{folder} holds this run, which would continue" if there else f"{folder} is new"
    except ConfigError as error:
        found = f"the run could not start: {error}"
    console.print(f"Run folder: {found}", markup=False, soft_wrap=True)
    try:
        check_data(config.data)
        found = "all that is named is there"
    except ConfigError as error:
        found = f"the run could not start: {error}"
    console.print(f"Data: {found}", markup=False, soft_wrap=True)
