"""One run, or several that differ in their kind of attention, and their table."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mta_jax.data import tokenizer_for
from mta_jax.files import write_atomically
from mta_jax.parallel.processes import is_first, on_first
from mta_jax.training import run_folder
from mta_jax.training.beginning import check_beginning
from mta_jax.training.config import TrainConfig, runs_of
from mta_jax.training.loop import Result, train
from mta_jax.training.memory import check_memory
from mta_jax.training.mesh import mesh_of
from mta_jax.training.pictures import save_pictures
from mta_jax.training.state import make_program


def run(config: TrainConfig) -> Mapping[str, Result]:
    """Trains what the config asks for, then prints a table and draws pictures.

    Returns:
      The finished runs by name.

    Raises:
      ConfigError: where the run folder holds another run.
      UserError: where a run cannot go on.
    """
    folder = Path(config.run_dir).expanduser()
    runs = runs_of(config)
    # What one of the runs cannot be built from is known before the first trains.
    for run_config in runs.values():
        program = make_program(run_config)
        check_memory(program, mesh_of(program.config))
        if config.init_from is not None:
            check_beginning(program, tokenizer_for(config.data))
    if config.compare is None:
        results = {name: train(config, folder, name=name) for name in runs}
    else:
        on_first(lambda: run_folder.open_run_folder(folder, config))
        results = {
            kind: train(run_config, folder / kind, name=kind) for kind, run_config in runs.items()
        }
    # Only the first process knows that the results are written.
    if not is_first():
        return results
    if config.compare is not None:
        figures = {
            kind: json.loads((result.folder / "results.json").read_text())
            for kind, result in results.items()
        }
        write_atomically(folder / "results.json", json.dumps(figures, indent=2) + "\n")
    pictures = save_pictures(results, folder / "pictures")
    console = Console(highlight=False)
    console.print(result_table(results))
    console.print(f"Run folder: {folder}", soft_wrap=True)
    for picture in pictures:
        console.print(f"  {picture}", soft_wrap=True)
    return results


_COLUMNS = {
    "error": ("whole-answer error", lambda value: f"{100 * value:.1f} %"),
    "loss": ("loss", lambda value: f"{value:.4f}"),
    "perplexity": ("perplexity", lambda value: f"{value:.3f}"),
    "bits_per_byte": ("bits per byte", lambda value: f"{value:.3f}"),
}


def result_table(results: Mapping[str, Result]) -> Table:
    """Kind, size, cost and held-out figures of each run, a row per held-out set."""
    first = next(iter(results.values()))
    shown = [name for name in _COLUMNS if any(name in v for v in first.held_out.values())]
    several = len(first.held_out) > 1
    table = Table(title="Held-out results")
    table.add_column("kind", no_wrap=True)
    for name in ("parameters", "steps", "seconds"):
        table.add_column(name, justify="right")
    if several:
        table.add_column("text")
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right")
    for kind, result in results.items():
        run_cells = [
            kind,
            f"{result.num_params:,}",
            f"{result.program.config.num_steps:,}",
            f"{result.seconds:.0f}",
        ]
        for held_out, values in result.held_out.items():
            cells = [_COLUMNS[name][1](values[name]) for name in shown]
            table.add_row(*run_cells, *([held_out] if several else []), *cells)
            run_cells = [""] * len(run_cells)
    return table
