"""The folder of a run, and what may be in it already.

================  ====================================================
config.yaml       the resolved config; decides whether a run continues
metrics.jsonl     loss, gradient norm, evaluations: the same bytes each
                  time the run is made
timing.jsonl      seconds, tokens per second
tensorboard/      both, for TensorBoard
checkpoints/      Orbax checkpoints
pictures/         PNG files
lock              held by the process that trains here
bad_step/         the batch that ended the run, if one did
results.json      the final figures, and what they were made with
================  ====================================================

A folder of weights, which a conversion makes, is no run. It holds:

================  ====================================================
config.yaml       settings for a run that begins with the weights
weights/          an Orbax checkpoint of the parameters alone
tokenizer.*       the tokenizer's file, where it has one
================  ====================================================
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mta_jax import files
from mta_jax.command_line.plain import from_plain, plain, to_yaml
from mta_jax.errors import ConfigError, UserError
from mta_jax.training.config import TrainConfig

CONFIG_FILE, WEIGHTS_FOLDER = "config.yaml", "weights"

# Where a run lies, what computes it and in which parts, when it is saved, what it does about bad
# steps, and who is told, make no other run of it.
_MAY_DIFFER = {
    "run_dir",
    "mesh",
    "processes",
    "safety",
    "track",
    "checkpoint",
    "accumulate",
    "loss.tokens_at_once",
    "model.remat",
    "model.scan_layers",
    "model.attention_implementation",
}


def open_run_folder(folder: Path, config: TrainConfig) -> bool:
    """Makes the folder of a run, or checks that it holds this very run.

    Returns:
      Whether the run was there before.

    Raises:
      ConfigError: where the folder holds anything else; nothing in it is touched.
    """
    if check_run_folder(folder, config):
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomically(folder / CONFIG_FILE, to_yaml(config))
    except OSError as error:
        raise ConfigError(f"run_dir {folder}: cannot be written ({error})") from None
    return False


def check_run_folder(folder: Path, config: TrainConfig) -> bool:
    """Whether the folder holds this very run; False where it is empty or new.

    Raises:
      ConfigError: where it holds anything else.
    """
    path = folder / CONFIG_FILE
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run_dir {folder}: is a file; choose a new or empty folder")
    if (folder / WEIGHTS_FOLDER).is_dir():
        raise ConfigError(
            f"run_dir {folder}: holds weights to begin a run with (init_from), and no run; "
            "choose a new or empty folder"
        )
    # A process killed in its first moment leaves an unfinished config behind.
    unfinished = CONFIG_FILE + files.TEMPORARY
    if not folder.exists() or all(entry.name == unfinished for entry in folder.iterdir()):
        return False
    if not path.is_file():
        raise ConfigError(
            f"run_dir {folder}: the folder is not empty and holds no {CONFIG_FILE}, so no run; "
            "choose a new or empty folder"
        )
    there = _read_plain(path, "choose another run_dir")
    difference = first_difference(_completed(there, str(path)), plain(config), _MAY_DIFFER)
    if difference:
        raise ConfigError(
            f"run_dir {folder} holds another run: {difference}; choose another run_dir, or the "
            "same settings to continue it"
        )
    return True


def read_config(folder: Path, setting: str) -> TrainConfig:
    """The settings of a run, or of several that it compares.

    Args:
      folder: the run folder.
      setting: that names it, for messages.

    Raises:
      ConfigError: where the folder holds no run, or its settings cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        what = f"holds no {CONFIG_FILE}, so no run" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{setting} {folder}: {what}; name a run folder")
    if (folder / WEIGHTS_FOLDER).is_dir():
        raise ConfigError(f"{setting} {folder}: holds weights, and no run; name a run folder")
    try:
        return from_plain(TrainConfig, _read_plain(path, "name another run folder"), str(path))
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(f"{setting} {error}") from None


def _read_plain(path: Path, hint: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})".replace("\n", " ")) from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds no settings; {hint}")
    return settings


def first_difference(there: Any, asked: Any, ignored: Collection[str] = ()) -> str | None:
    """Names the first field in which two configs, as plain values, differ.

    Args:
      there: the one, called "there".
      asked: the other, called "here".
      ignored: fields that may differ, with their sections, as `model.remat`.
    """
    return _first_difference(there, asked, ignored, "")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder meanwhile.

    Raises:
      UserError: where one does already.
    """
    complaint = (
        f"run_dir {folder}: another process is training there; wait for it, or choose another "
        "run_dir"
    )
    with files.locked(folder / "lock", complaint):
        yield


def _completed(there: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings with the defaults of those that are newer than they."""
    try:
        return plain(from_plain(TrainConfig, there, where))
    except UserError:
        # Of another version: the first difference tells more.
        return there


def _first_difference(there: Any, asked: Any, ignored: Collection[str], path: str) -> str | None:
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in {**asked, **there}:
            own = f"{path}.{name}" if path else name
            if own in ignored:
                continue
            difference = _first_difference(
                there.get(name, "missing"), asked.get(name, "missing"), ignored, own
            )
            if difference:
                return difference
        return None
    if there == asked:
        return None
    there, asked = ("null" if value is None else value for value in (there, asked))
    return f"{path} is {there} there and {asked} here"
