"""Settings that the evaluations share."""

import dataclasses
import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from mta_jax.data.haystack import PYTHON_PROSE
from mta_jax.errors import ConfigError
from mta_jax.training.run_folder import CONFIG_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which models are evaluated, and where the figures go."""

    checkpoint: str | list[str]
    """Run folders, whose newest checkpoints are taken, RUN/checkpoints/STEP, or folders of
    weights; or globs of them."""

    output: str | None = None
    """New folder for the figures, a line for each sample, and pictures; null: only the table."""

    batch_size: int | None = None
    """Rows at a time; null: as in training, and of longer rows fewer."""

    def __post_init__(self) -> None:
        if not self.given_checkpoints:
            raise ValueError(f"checkpoint {self.checkpoint}: name at least one")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: must be at least 1, or null")

    @property
    def given_checkpoints(self) -> list[str]:
        """As a list, as they were given."""
        return [self.checkpoint] if isinstance(self.checkpoint, str) else self.checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class HaystackConfig(EvaluateConfig):
    """What facts are hidden in."""

    haystack: str | list[str] = dataclasses.field(default_factory=lambda: list(PYTHON_PROSE))
    """Locations of the text around: files, folders, globs or hf:NAME, whose order is kept; Python's
    own manual and docstrings need no download."""

    field: str = "text"
    """Field or column that holds the text of the haystack, where there are several."""

    allow_extrapolation: bool = False
    """Contexts may be longer than those a model was made for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.haystack_locations or not all(self.haystack_locations):
            raise ValueError(f"haystack {self.haystack!r}: name at least one location")

    @property
    def haystack_locations(self) -> list[str]:
        """As a list."""
        return [self.haystack] if isinstance(self.haystack, str) else self.haystack


def checkpoints_of(config: EvaluateConfig) -> list[str]:
    """Each checkpoint once, globs as what they name, sorted.

    Raises:
      ConfigError: where a glob names none.
    """
    return matching(
        config.given_checkpoints,
        setting="checkpoint",
        is_wanted=_is_model,
        wanted="run folder, checkpoint or folder of weights",
    )


def matching(
    locations: Sequence[str], *, setting: str, is_wanted: Callable[[Path], bool], wanted: str
) -> list[str]:
    """Each location once, globs as what they name, sorted.

    Args:
      locations: as they were given.
      setting: that names them, for messages.
      is_wanted: whether a path that a glob names counts.
      wanted: what such a path is called.

    Raises:
      ConfigError: where a glob names none.
    """
    found: list[str] = []
    for location in locations:
        if not glob.has_magic(location) or Path(location).exists():
            found.append(location)
            continue
        paths = glob.glob(str(Path(location).expanduser()))
        matches = sorted(path for path in paths if is_wanted(Path(path)))
        if not matches:
            raise ConfigError(f"{setting} {location}: matches no {wanted}")
        found += matches
    return list(dict.fromkeys(found))


def _is_model(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() or path.parent.name == "checkpoints"
