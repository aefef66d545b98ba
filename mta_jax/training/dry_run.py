"""What a run would be, without allocating it."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mta_jax.command_line.plain import to_yaml
from mta_jax.data import check_data
from mta_jax.errors import ConfigError
from mta_jax.models.parts import count_by_part
from mta_jax.training.config import TrainConfig, runs_of
from mta_jax.training.memory import num_bytes, spell_bytes
from mta_jax.training.partition import together
from mta_jax.training.run_folder import check_run_folder
from mta_jax.training.state import State, make_program


def print_dry_run(config: TrainConfig) -> None:
    """Prints the settings, then parameters by part and memory, for each kind asked for."""
    console = Console(highlight=False)
    console.print(to_yaml(config), markup=False, soft_wrap=True)
    for name, run_config in runs_of(config).items():
        state = make_program(run_config).abstract_state
        table = Table(title=f"Parameters: {name}")
        _add_counts(table, state)
        table.add_section()
        table.add_row(
            "memory of parameters", spell_bytes(num_bytes([state["params"], state.get("frozen")]))
        )
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


def _add_counts(table: Table, state: State) -> None:
    """Fills in the parameters of each part, and how many of them are trained if not all are."""
    trained = count_by_part(state["params"])
    counts = count_by_part(together(state["params"], state.get("frozen", {})))
    rows = {**counts, "total": sum(counts.values())}
    trained["total"] = sum(trained.values())
    table.add_column("part")
    table.add_column("parameters", justify="right")
    if "frozen" in state:
        table.add_column("trained", justify="right")
    for part, count in rows.items():
        if part == "total":
            table.add_section()
        cells = [part, f"{count:,}", f"{trained.get(part, 0):,}"]
        table.add_row(*cells[: len(table.columns)])
