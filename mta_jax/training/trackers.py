"""Trackers that a run may write to besides its own files."""

import importlib
import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from mta_jax.errors import ConfigError
from mta_jax.files import write_atomically
from mta_jax.models import AttentionKind
from mta_jax.training.config import TrackConfig, Tracker

_ID_FILE = "tracker_id"
_KINDS = get_args(AttentionKind)

_logger = logging.getLogger(__name__)


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
      ConfigError: where a tracker is not installed, or cannot be opened.
    """
    return [_Tracker(name, config.project, folder, settings) for name in config.to]


def check_trackers(config: TrackConfig) -> None:
    """Makes sure that the trackers are installed.

    Raises:
      ConfigError: where one is not.
    """
    for name in config.to:
        _import(name)


class _Tracker:
    """Weights & Biases, or trackio, which has the same functions."""

    def __init__(self, name: Tracker, project: str, folder: Path, settings: Mapping[str, Any]):
        library = _import(name)
        self._name = name
        options: dict[str, Any] = {
            "project": project,
            "name": _run_name(folder),
            "config": dict(settings),
            "resume": "allow",
        }
        if name == "wandb":
            options |= {"dir": str(folder), "id": _run_id(folder)}
        try:
            self._run = library.init(**options)
        # No login, no network: whatever it is, it is this line, before the first step.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"track.to {name}: cannot be opened ({reason})") from None
        self._is_lost = False

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        # A tracker that fails is no reason to lose a run; the rows are in its files too.
        self._attempt(lambda: self._run.log(dict(values), step=step))

    def close(self) -> None:
        self._attempt(self._run.finish)

    def _attempt(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            if not self._is_lost:
                _logger.warning("%s: %s; metrics are missing there", self._name, error)
            self._is_lost = True


def _import(name: Tracker) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"track.to {name}: not installed ({error}); pip install {name}") from None


def _run_name(folder: Path) -> str:
    """The folder's name; one run of a comparison, which is named by its kind, has both names."""
    folder = folder.absolute()
    return f"{folder.parent.name}/{folder.name}" if folder.name in _KINDS else folder.name


def _run_id(folder: Path) -> str:
    """An id that the run has kept since it began."""
    path = folder / _ID_FILE
    if not path.is_file():
        write_atomically(path, uuid.uuid4().hex[:16])
    return path.read_text(encoding="utf-8").strip()
