"""What the benchmarks that time something share: command line, table, file of figures."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mta_jax.benchmark import torch_attention
from mta_jax.benchmark.timing import describe_machine
from mta_jax.command_line import parse
from mta_jax.files import write_figures


def run_command(
    arguments: list[str],
    config_type: type[Any],
    *,
    name: str,
    description: str,
    measure: Callable[[Any], Sequence[Any]],
    table: Callable[[Any, Any, dict[str, str]], Table],
) -> int:
    """Measures, prints a table and writes the JSON file that is asked for; returns 0.

    Args:
      arguments: the command line after the name of the benchmark.
      config_type: dataclass with the settings, `json` among them, and maybe `torch`.
      name: of the benchmark.
      description: one line of its help.
      measure: takes the config to its rows, which are dataclasses.
      table: takes config, rows and machine to what is printed.

    Raises:
      UserError: where PyTorch is asked for and missing, or a file cannot be written.
    """
    config, _ = parse(
        config_type,
        arguments,
        prog=f"mta_jax.benchmark {name}",
        description=description,
        has_dry_run=False,
    )
    logging.getLogger("mta_jax").setLevel(logging.WARNING)
    if getattr(config, "torch", False):
        torch_attention.require()
    machine = describe_machine()
    rows = measure(config)
    Console().print(table(config, rows, machine))
    if config.json:
        content = {
            "machine": machine,
            "config": dataclasses.asdict(config),
            "measurements": [dataclasses.asdict(row) for row in rows],
        }
        write_figures(config.json, content)
    return 0


def implementations_of(config: Any) -> list[Any]:
    """Those to measure: the named ones, or the automatic choice and xla; torch last."""
    named = [None, "xla"] if config.implementations is None else list(config.implementations)
    return [*named, "torch"] if config.torch else named
