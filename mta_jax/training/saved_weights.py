"""Weights of a run, read without its optimiser's state, or of a folder of weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from mta_jax.command_line.plain import from_plain
from mta_jax.data import Tokenizer
from mta_jax.errors import ConfigError, UserError
from mta_jax.models.parts import is_mixing
from mta_jax.parallel.rules import state_shardings, with_shardings
from mta_jax.training.checkpoint import checksums, first_line
from mta_jax.training.config import TrainConfig
from mta_jax.training.finetune_config import FinetuneConfig
from mta_jax.training.partition import together, without_low_rank
from mta_jax.training.run_folder import CONFIG_FILE, WEIGHTS_FOLDER
from mta_jax.training.same_model import forbidden_difference
from mta_jax.training.state import Program, State, make_program
from mta_jax.training.weights_folder import located


@dataclasses.dataclass(frozen=True)
class SavedWeights:
    """What a checkpoint says of a model.

    Attributes:
      program: structure of the model alone: low-rank terms of a run are in its kernels.
      params: its parameters; their moving average, where the run kept one.
      step: training steps behind them; 0 for a folder of weights.
      folder: the checkpoint.
      tokenizer: fingerprint of the tokenizer that the run was trained with.
      length: tokens of the longest text that it is made for.
    """

    program: Program
    params: Any
    step: int
    folder: Path
    tokenizer: str
    length: int


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself, without its arrays.

    Attributes:
      folder: the checkpoint.
      program: structure of its run.
      tokenizer: fingerprint of its tokenizer.
      origin: where the model came from, as a folder of weights or the run's notes say; None
        where that is not known.
    """

    folder: Path
    program: Program
    tokenizer: str
    origin: Mapping[str, Any] | None

    @property
    def abstract_state(self) -> State:
        """Shapes and dtypes of what it holds."""
        state = self.program.abstract_state
        return state if self.is_run else {"params": state["params"]}

    @property
    def step(self) -> int:
        """Training steps behind it."""
        return int(self.folder.name) if self.is_run else 0

    @property
    def is_run(self) -> bool:
        """Whether it is that of a run, and no folder of weights."""
        return self.folder.name != WEIGHTS_FOLDER

    @property
    def length(self) -> int:
        """Tokens of the longest text that the model is made for, before its run or in it."""
        return max((self.origin or {}).get("length", 0), self.program.config.data.row_length)


def owner_of(checkpoint: Path) -> Path:
    """The run folder, or the folder of weights, that a checkpoint is in."""
    return checkpoint.parent if checkpoint.name == WEIGHTS_FOLDER else checkpoint.parent.parent


def read_weights(location: str | Path, setting: str, *, mesh: Mesh | None = None) -> SavedWeights:
    """Reads the weights of a run, or a folder of weights.

    Args:
      location: a run folder, whose newest checkpoint is taken, one of its checkpoints,
        ``RUN/checkpoints/STEP``, or a folder of weights.
      setting: that names it, for messages.
      mesh: to read the weights onto; default: the first device.

    Raises:
      UserError: where there is no checkpoint, or it cannot be read.
    """
    described = describe_weights(location, setting)
    folder, program, abstract = described.folder, described.program, described.abstract_state
    names = ("ema" if "ema" in abstract else "params", "frozen")
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(abstract)[0]]
    own = [index for index, path in enumerate(paths) if path[0].key in names]
    wanted = {name: abstract[name] for name in names if name in abstract} | {
        # The sum of every leaf's bits, in the order of the leaves.
        "checksums": [jax.ShapeDtypeStruct((), "uint32") for _ in paths],
    }
    wanted = with_shardings(wanted, _shardings(wanted, mesh))
    # Nothing but what is wanted is read.
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            state = ocp.load_checkpointables(folder, {"state": wanted})["state"]
    # Whatever a broken file makes a reader raise, the answer is the same.
    except Exception as error:
        raise UserError(f"{setting} {folder}: cannot be read ({first_line(error)})") from None
    every_sum = state.pop("checksums")
    sums, found = [every_sum[index] for index in own], checksums(state)
    if any(int(a) != int(b) for a, b in zip(sums, found, strict=True)):
        raise UserError(f"{setting} {folder}: is damaged (its contents do not match its checksums)")
    params = without_low_rank(together(*state.values()), program.config.finetune)
    return SavedWeights(
        _alone(program), params, described.step, folder, described.tokenizer, described.length
    )


def _shardings(tree: Any, mesh: Mesh | None) -> Any:
    """Where to read each leaf to."""
    if mesh is not None:
        return state_shardings(tree, mesh)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: device, tree)


def _alone(program: Program) -> Program:
    """The same model without low-rank terms, all of it trained."""
    return make_program(dataclasses.replace(program.config, finetune=FinetuneConfig()))


def _checkpoint_folder(location: Path, setting: str) -> Path:
    if (location / WEIGHTS_FOLDER).is_dir():
        return (location / WEIGHTS_FOLDER).absolute()
    # What is found names its place in full, and may be given again.
    if location.name == WEIGHTS_FOLDER and (location.parent / CONFIG_FILE).is_file():
        return location.absolute()
    is_run = (location / "checkpoints").is_dir()
    if location.name.isdecimal() and location.is_dir() and not is_run:
        return location.absolute()
    for folder in (location / "checkpoints", location):
        steps = [int(entry.name) for entry in _entries(folder) if entry.name.isdecimal()]
        if steps:
            return (folder / str(max(steps))).absolute()
    what = "holds no checkpoint" if location.is_dir() else "no such folder"
    raise UserError(
        f"{setting} {location}: {what}; expected a run folder, RUN/checkpoints/STEP or a folder of "
        "weights"
    )


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []


def check_weights(
    described: Description, program: Program, tokenizer: Tokenizer, setting: str
) -> list[tuple[Any, ...]]:
    """Makes sure that another run can begin with saved weights, without reading them.

    Args:
      described: the weights, by `describe_weights`.
      program: the other run.
      tokenizer: its tokenizer.
      setting: that names their location, for messages.

    Returns:
      Names of the parameters that the saved model lacks: none, or with `finetune.retrofit`
      some of those that ordinary attention lacks.

    Raises:
      ConfigError: where their model or tokenizer is another one.
    """
    folder, saved = described.folder, described.program
    there, here = _shapes(saved), _shapes(program)
    new = [path for path in here if path not in there and is_mixing(path)]
    allowed = new if program.config.finetune.retrofit else []
    differing = [path for path in {**here, **there} if there.get(path) != here.get(path)]
    for path in differing:
        if path not in allowed:
            hint = "; finetune.retrofit true adds it" if differing == new else ""
            raise ConfigError(
                f"{setting} {folder}: its model is another one: {'.'.join(map(str, path))} is "
                f"{there.get(path, 'missing')} there and {here.get(path, 'missing')} here{hint}"
            )
    if program.config.finetune.retrofit and not new:
        raise ConfigError(
            f"finetune.retrofit true: the model of {setting} {folder} has all that this one has"
        )
    if difference := forbidden_difference(saved.config.model, program.config.model):
        raise ConfigError(f"{setting} {folder}: its model is another one: {difference}")
    if described.tokenizer != tokenizer.fingerprint:
        raise ConfigError(
            f"{setting} {folder}: was trained with another tokenizer than that of this run, "
            f"{tokenizer.name}"
        )
    return allowed


def describe_weights(location: str | Path, setting: str) -> Description:
    """What a checkpoint says of itself; arguments and errors are those of `read_weights`."""
    folder = _checkpoint_folder(Path(location).expanduser(), setting)
    try:
        metadata = ocp.checkpointables_metadata(folder).custom_metadata
        settings, notes = metadata["config"], metadata["notes"]
        tokenizer = notes["tokenizer"]
        origin = metadata.get("origin", notes.get("origin"))
    except Exception as error:
        raise UserError(
            f"{setting} {folder}: not a checkpoint of a run ({first_line(error)})"
        ) from None
    config = from_plain(TrainConfig, settings, f"{setting} {folder}")
    if folder.name == WEIGHTS_FOLDER:
        config = located(config, folder.parent)
    return Description(folder, make_program(config), tokenizer, origin)


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


def _shapes(program: Program) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Shapes of the parameters of the model alone, by name."""
    params = jax.eval_shape(_alone(program).initial_params)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params).items()}
