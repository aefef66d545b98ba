"""Trackers that a run may write to besides its own files."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mta_jax.errors import ConfigError
from mta_jax.training.config import TrackConfig, Tracker

_ID_FILE = "trackers.json"


@runtime_checkable
class Writer(Protocol):
    """Receives every row of metrics."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the values of a step."""

    def close(self) -> None:
        """Returns when everything has been handed over."""


def open_trackers(config: TrackConfig, folder: Path, settings: Mapping[str, Any]) -> list[Writer]:
    """Opens the trackers that a config names.

    Args:
      config: which ones.
      folder: the run folder, whose name is the run's. A run that continues there
        continues its runs in the trackers.
      settings: the run's config, shown beside the metrics.

    Raises:
      ConfigError: where a tracker is not installed.
    """
    return [_Tracker(name, config.project, folder, settings) for name in config.to]


class _Tracker:
    """Weights & Biases, or trackio, which has the same functions."""

    def __init__(self, name: Tracker, project: str, folder: Path, settings: Mapping[str, Any]):
        library = _import(name)
        options: dict[str, Any] = {"project": project, "config": dict(settings)}
        if name == "wandb":
            options |= {
                "name": folder.name,
                "dir": str(folder),
                "id": _run_id(folder, library.util.generate_id),
                "resume": "allow",
            }
        else:
            options |= {"name": folder.name, "resume": "allow"}
        self._run = library.init(**options)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _import(name: Tracker) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(f"track.to {name}: not installed; pip install {name}") from None


def _run_id(folder: Path, make: Any) -> str:
    """The id that the run has kept since it began."""
    path = folder / _ID_FILE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["wandb"]
    run_id = make()
    path.write_text(json.dumps({"wandb": run_id}), encoding="utf-8")
    return run_id
