"""Runs that are reported, as their folders tell of them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.config import matching
from mta_jax.evaluate.text_model import short_names
from mta_jax.training.config import TrainConfig, runs_of
from mta_jax.training.records import METRICS_FILE, TIMING_FILE, Row, read_rows
from mta_jax.training.run_folder import CONFIG_FILE, read_config
from mta_jax.training.saved_weights import SavedWeights, read_weights
from mta_jax.training.state import evaluated, make_program


@dataclasses.dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      name: tells it from the others.
      folder: its folder.
      config: its settings.
      rows: of its metrics.
      timing: rows of its times.
      made_with: commit, device and versions that it ended with, as far as it recorded them.
    """

    name: str
    folder: Path
    config: TrainConfig
    rows: Sequence[Row]
    timing: Sequence[Row]
    made_with: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Of attention, "mixed" where layers have different ones."""
        return next(iter(runs_of(self.config)))

    @property
    def learns_text(self) -> bool:
        """Whether it learns text, and not the block-search task."""
        return self.config.data.source == "text"

    @property
    def step(self) -> int:
        """Steps that it has recorded."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def tokens(self) -> int:
        """Tokens that it has seen, padding included."""
        return self.step * self.config.data.rows * self.config.data.row_length

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        state = evaluated(make_program(self.config).abstract_state)
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    @property
    def seconds(self) -> float:
        """Seconds of training, evaluations not included."""
        return sum(row["seconds"] for row in self.timing)

    @property
    def tokens_per_second(self) -> float:
        """In the last interval that was recorded; 0 where there is none."""
        return self.timing[-1]["tokens_per_second"] if self.timing else 0.0

    def weights(self) -> SavedWeights | None:
        """Those of its newest checkpoint; None where it has none yet.

        Raises:
          UserError: where it cannot be read.
        """
        folder = self.folder / "checkpoints"
        if not folder.is_dir() or not any(entry.name.isdecimal() for entry in folder.iterdir()):
            return None
        return read_weights(self.folder, "runs")


def read_runs(locations: Sequence[str]) -> list[Run]:
    """All runs, each once.

    Raises:
      ConfigError: where a folder holds no run.
      UserError: where what it holds is damaged.
    """
    given = matching(
        locations,
        setting="runs",
        is_wanted=lambda path: (path / CONFIG_FILE).is_file(),
        wanted="run folder",
    )
    configs: dict[Path, TrainConfig] = {}
    for location in given:
        configs |= _found(Path(location).expanduser())
    folders = list(configs)
    return [
        Run(
            name=name,
            folder=folder,
            config=configs[folder],
            rows=_rows(folder / METRICS_FILE),
            timing=_rows(folder / TIMING_FILE),
            made_with=_made_with(folder / "results.json"),
        )
        for folder, name in zip(folders, short_names(folders), strict=True)
    ]


def _found(folder: Path) -> dict[Path, TrainConfig]:
    """The run in a folder, or those that it compares, by their folders."""
    config = read_config(folder, "runs")
    if config.compare is None:
        return {folder.resolve(): config}
    folders = [folder / kind for kind in config.compare]
    there = [own for own in folders if (own / CONFIG_FILE).is_file()]
    if not there:
        raise ConfigError(f"runs {folder}: none of the runs that it compares has begun")
    return {own.resolve(): read_config(own, "runs") for own in there}


def _made_with(path: Path) -> Mapping[str, Any]:
    """What a finished run recorded; older ones did not."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).get("made_with", {}))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the results of a run ({error})") from None


def _rows(path: Path) -> list[Row]:
    return read_rows(path) if path.is_file() else []
