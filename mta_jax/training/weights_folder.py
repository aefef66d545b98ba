"""Writes a folder of weights, which runs begin with; `training.saved_weights` reads it."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from mta_jax import files
from mta_jax.command_line.plain import plain, to_yaml
from mta_jax.errors import UserError
from mta_jax.training.checkpoint import checksums, first_line
from mta_jax.training.config import TrainConfig
from mta_jax.training.run_folder import CONFIG_FILE, WEIGHTS_FOLDER


def with_tokenizer(config: TrainConfig, path: str) -> TrainConfig:
    """The config with the tokenizer's file at another path."""
    text = dataclasses.replace(config.data.text, tokenizer=path)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, text=text))


def write_weights(
    folder: Path,
    config: TrainConfig,
    params: Any,
    *,
    home: Path,
    fingerprint: str,
    origin: Mapping[str, Any],
) -> None:
    """Writes weights and settings to a folder.

    Args:
      folder: the folder, which is there.
      config: settings for a run that begins with them. A tokenizer without a folder in its
        path is a file in `folder`.
      params: the parameters.
      home: what the folder will be called.
      fingerprint: of the tokenizer.
      origin: what is to be remembered of where they came from, as plain values.

    Raises:
      UserError: where they cannot be written.
    """
    spec = config.data.text.tokenizer
    resolved = (
        with_tokenizer(config, str(home.absolute() / spec)) if _is_own(folder, spec) else config
    )

    def quoted(path: Path) -> str:
        return shlex.quote(str(path))

    header = (
        "# Settings for a run that begins with these weights:\n"
        f"#   python train.py --config {quoted(home / CONFIG_FILE)} --init_from {quoted(home)} \\\n"
        "#     --data.text.domains.NAME.train TEXT --run_dir RUN\n"
    )
    try:
        files.write_atomically(folder / CONFIG_FILE, header + to_yaml(resolved))
        ocp.save_checkpointables(
            (folder / WEIGHTS_FOLDER).absolute(),
            {"state": {"params": params, "checksums": checksums(params)}},
            # In a folder that is moved, the tokenizer moves along.
            custom_metadata={
                "config": plain(config),
                "notes": {"tokenizer": fingerprint},
                "origin": dict(origin),
            },
        )
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"output {home}: cannot be written ({first_line(error)})") from None


def located(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config that `write_weights` was given, its tokenizer found in the folder."""
    spec = config.data.text.tokenizer
    return with_tokenizer(config, str(folder / spec)) if _is_own(folder, spec) else config


def _is_own(folder: Path, spec: str) -> bool:
    return Path(spec).name == spec and (folder / spec).is_file()
