"""Weights of a run, read from its checkpoints without its optimiser's state."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from mta_jax.command_line.plain import from_plain
from mta_jax.data import Tokenizer
from mta_jax.errors import ConfigError, UserError
from mta_jax.parallel.rules import with_shardings
from mta_jax.training.checkpoint import checksums, first_line
from mta_jax.training.config import TrainConfig
from mta_jax.training.state import Program, make_program


@dataclasses.dataclass(frozen=True)
class SavedWeights:
    """What a checkpoint says of a model.

    Attributes:
      program: structure of the run.
      params: its parameters; their moving average, where the run kept one.
      step: training steps behind them.
      folder: the checkpoint.
      tokenizer: fingerprint of the tokenizer that the run was trained with.
    """

    program: Program
    params: Any
    step: int
    folder: Path
    tokenizer: str


def read_weights(location: str | Path, setting: str, *, shardings: Any = None) -> SavedWeights:
    """Reads the weights of a run.

    Args:
      location: a run folder, whose newest checkpoint is taken, or one of its checkpoints,
        ``RUN/checkpoints/STEP``.
      setting: that names it, for messages.
      shardings: where each array is to go; default: the first device.

    Raises:
      UserError: where there is no checkpoint, or it cannot be read.
    """
    folder, program, tokenizer = _described(location, setting)
    abstract = program.abstract_state
    name = "ema" if "ema" in abstract else "params"
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(abstract)[0]]
    own = [index for index, path in enumerate(paths) if path[0].key == name]
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if shardings is None:
        shardings = jax.tree.map(lambda _: device, abstract[name])
    scalar = _replicated(jax.tree.leaves(shardings)[0])
    wanted = {
        name: with_shardings(abstract[name], shardings),
        # The sum of every leaf's bits, in the order of the leaves.
        "checksums": [jax.ShapeDtypeStruct((), "uint32", sharding=scalar) for _ in paths],
    }
    # Nothing but what is wanted is read.
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            state = ocp.load_checkpointables(folder, {"state": wanted})["state"]
    # Whatever a broken file makes a reader raise, the answer is the same.
    except Exception as error:
        raise UserError(f"{setting} {folder}: cannot be read ({first_line(error)})") from None
    params = state[name]
    sums = [state["checksums"][index] for index in own]
    found = checksums(params)
    if any(int(a) != int(b) for a, b in zip(sums, found, strict=True)):
        raise UserError(f"{setting} {folder}: is damaged (its contents do not match its checksums)")
    return SavedWeights(program, params, int(folder.name), folder, tokenizer)


def _replicated(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """The place of a scalar beside an array of this place."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


def _checkpoint_folder(location: Path, setting: str) -> Path:
    is_run = (location / "checkpoints").is_dir()
    if location.name.isdecimal() and location.is_dir() and not is_run:
        return location.absolute()
    for folder in (location / "checkpoints", location):
        steps = [int(entry.name) for entry in _entries(folder) if entry.name.isdecimal()]
        if steps:
            return (folder / str(max(steps))).absolute()
    what = "holds no checkpoint" if location.is_dir() else "no such folder"
    raise UserError(f"{setting} {location}: {what}; expected a run folder or RUN/checkpoints/STEP")


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []


def check_weights(location: str, program: Program, tokenizer: Tokenizer, setting: str) -> None:
    """Makes sure that another run can begin with saved weights, without reading them.

    Args:
      location: as of `read_weights`.
      program: the other run.
      tokenizer: its tokenizer.
      setting: that names the location, for messages.

    Raises:
      UserError: where there is no checkpoint, or its model or tokenizer is another one.
    """
    folder, saved, fingerprint = _described(location, setting)
    there = _shapes(saved.abstract_state["params"])
    here = _shapes(program.abstract_state["params"])
    for name in {**here, **there}:
        if there.get(name) != here.get(name):
            raise ConfigError(
                f"{setting} {folder}: its model is another one: {name} is "
                f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
            )
    if fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{setting} {folder}: was trained with another tokenizer than that of this run, "
            f"{tokenizer.name}"
        )


def _described(location: str | Path, setting: str) -> tuple[Path, Program, str]:
    """The checkpoint's folder, its run, and the fingerprint of its tokenizer."""
    folder = _checkpoint_folder(Path(location).expanduser(), setting)
    try:
        metadata = ocp.checkpointables_metadata(folder).custom_metadata
        settings, tokenizer = metadata["config"], metadata["notes"]["tokenizer"]
    except Exception as error:
        raise UserError(
            f"{setting} {folder}: not a checkpoint of a run ({first_line(error)})"
        ) from None
    program = make_program(from_plain(TrainConfig, settings, f"{setting} {folder}"))
    return folder, program, tokenizer


def check_tokenizer(saved: SavedWeights, tokenizer: Tokenizer, setting: str) -> None:
    """Makes sure that a tokenizer is the one that a model was trained with.

    Args:
      saved: the model.
      tokenizer: what its run's settings name now.
      setting: that names the checkpoint, for messages.

    Raises:
      ConfigError: where it is not.
    """
    if saved.tokenizer != tokenizer.fingerprint:
        named = saved.program.config.data.text.tokenizer
        raise ConfigError(
            f"{setting} {saved.folder}: its tokenizer was another one than data.text.tokenizer "
            f"{named} is now; restore that file"
        )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in leaves}
