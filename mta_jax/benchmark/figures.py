"""The file of figures that a timing benchmark leaves."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mta_jax.errors import UserError


def write_figures(path: str, config: Any, machine: dict[str, str], rows: Sequence[Any]) -> None:
    """Writes machine, config and rows, both dataclasses, as JSON.

    Raises:
      UserError: where it cannot be written.
    """
    content = {
        "machine": machine,
        "config": dataclasses.asdict(config),
        "measurements": [dataclasses.asdict(row) for row in rows],
    }
    try:
        Path(path).write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"json {path}: cannot be written ({error.strerror})") from None
