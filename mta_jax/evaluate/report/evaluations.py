"""What evaluations wrote."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mta_jax.errors import ConfigError
from mta_jax.evaluate.config import matching
from mta_jax.evaluate.report.document import Picture, file_name
from mta_jax.evaluate.task import FIGURES_FILE
from mta_jax.evaluate.text_model import short_names

_PARTS = {"task": str, "provenance": dict, "config": dict, "rows": list}
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBER = (int, float)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Attributes:
      name: tells it from the others.
      folder: its folder.
      task: what was evaluated.
      provenance: how the figures came about.
      config: its settings.
      rows: the figures.
    """

    name: str
    folder: Path
    task: str
    provenance: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def where(self) -> str:
        """The file, for messages."""
        return f"evaluations {self.folder / FIGURES_FILE}"

    def checked(
        self, words: Sequence[str], numbers: Sequence[str], may_lack: Sequence[str] = ()
    ) -> list[Mapping[str, Any]]:
        """The rows, when they have what is needed.

        Args:
          words: fields that are strings.
          numbers: fields that are numbers.
          may_lack: those of them that may be null.

        Raises:
          ConfigError: where one is missing or something else, or there is no row.
        """
        if not self.rows:
            raise ConfigError(f"{self.where}: has no rows")
        for place, row in enumerate(self.rows):
            for name in (*words, *numbers):
                kind: Any = str if name in words else _NUMBER
                value = row.get(name)
                if isinstance(value, kind) or (name in may_lack and value is None):
                    continue
                wanted = "a string" if name in words else "a number"
                raise ConfigError(
                    f"{self.where}: {name} of row {place} of {self.task} is {value!r}, must be "
                    f"{wanted}"
                )
        return list(self.rows)

    def made(self) -> str:
        """How the figures came about, in a line."""
        told = self.provenance
        seed = self.config.get("seed")
        parts = [
            f"{told['command']}" if told.get("command") else "",
            f"commit {told['commit']}" if told.get("commit") else "commit not known",
            *(str(told[name]) for name in ("device",) if told.get(name)),
            *(f"{name} {told[name]}" for name in ("jax", "flax") if told.get(name)),
            f"Python {told['python']}" if told.get("python") else "",
            str(told.get("date") or ""),
            f"{told['seconds']:,} s" if isinstance(told.get("seconds"), _NUMBER) else "",
            "" if seed is None else f"seed {seed}",
        ]
        return f"Made by: {', '.join(part for part in parts if part)}."

    def pictures(self) -> list[Picture]:
        """The pictures that it drew.

        Raises:
          ConfigError: where a file is none.
        """
        found = []
        for path in sorted(self.folder.glob("*.png")):
            content = path.read_bytes()
            if not content.startswith(_PNG):
                raise ConfigError(f"evaluations {path}: is damaged (no PNG file)")
            name = file_name(f"{self.task}-{self.name}-{path.stem}")
            found.append(
                Picture(name, content, f"{self.task}, {self.name}: {path.stem.replace('_', ' ')}")
            )
        return found


def read_evaluations(locations: Sequence[str]) -> list[Evaluation]:
    """All evaluations, each once.

    Raises:
      ConfigError: where a folder holds none, or a damaged one.
    """
    given = matching(
        locations,
        setting="evaluations",
        is_wanted=lambda path: (path / FIGURES_FILE).is_file(),
        wanted="folder of an evaluation",
    )
    folders = list(dict.fromkeys(Path(location).expanduser().resolve() for location in given))
    return [_read(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]


def _read(folder: Path, name: str) -> Evaluation:
    path = folder / FIGURES_FILE
    if not path.is_file():
        what = f"holds no {FIGURES_FILE}" if folder.is_dir() else "no such folder"
        raise ConfigError(f"evaluations {folder}: {what}; name what an evaluation wrote (--output)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"evaluations {path}: is damaged ({error})") from None
    content = content if isinstance(content, dict) else {}
    parts: dict[str, Any] = {part: content.get(part) for part in _PARTS}
    is_whole = all(isinstance(parts[part], kind) for part, kind in _PARTS.items())
    if not is_whole or not all(isinstance(row, dict) for row in content["rows"]):
        raise ConfigError(
            f"evaluations {path}: not the figures of an evaluation, which have {', '.join(_PARTS)}"
        )
    return Evaluation(name=name, folder=folder, **parts)
