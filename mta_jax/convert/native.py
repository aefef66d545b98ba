"""Runs and folders of weights of ours, read and written."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mta_jax.data import DataConfig
from mta_jax.data.text_config import TextConfig
from mta_jax.errors import ConfigError, UserError
from mta_jax.interop.checkpoint import Checkpoint, Origin, TokenizerFiles
from mta_jax.interop.companions import companions
from mta_jax.interop.names import flat, parameter_shapes, unflat
from mta_jax.training.config import LossConfig, OptimizerConfig, TrainConfig
from mta_jax.training.saved_weights import Description, describe_weights, owner_of, read_weights
from mta_jax.training.weights_folder import write_weights

# A start for finetuning; the run's own settings come on top.
_LONGEST_ROW, _ROWS, _LEARNING_RATE, _WARMUP_STEPS = 2048, 8, 2e-5, 50
_TOKENS_AT_ONCE = 4096


def read(location: Path, *, with_arrays: bool = True) -> Checkpoint:
    """Reads a run, one of its checkpoints, or a folder of weights.

    Args:
      location: the folder.
      with_arrays: whether to read the weights.

    Raises:
      UserError: where there are none, or they are damaged.
    """
    described = describe_weights(location, "input")
    config = described.program.config
    arrays = None
    if with_arrays:
        params = read_weights(location, "input").params
        arrays = {name: np.asarray(leaf) for name, leaf in flat(params).items()}
    tokenizer, notes = _tokenizer(described)
    return Checkpoint(
        model=config.model,
        arrays=arrays,
        shapes=parameter_shapes(config.model),
        length=described.length,
        tokenizer=tokenizer,
        origin=_origin(described),
        notes=notes,
    )


def _origin(described: Description) -> Origin:
    before = described.origin or {}
    # What a run trained is no longer a number of its origin's dtype.
    kept = ("format", "settings") if described.is_run else ("format", "settings", "dtype", "dtypes")
    values = {"format": "native", "dtype": "float32"}
    return Origin(**values | {name: before[name] for name in kept if name in before})


def _tokenizer(described: Description) -> tuple[TokenizerFiles, tuple[str, ...]]:
    """The tokenizer, and what is to be known of the files beside it."""
    data = described.program.config.data
    if data.source != "text":
        return TokenizerFiles("letters"), ()
    spec = data.text.tokenizer
    tokenizer = TokenizerFiles(spec, data.text.bos_token, data.text.eos_token)
    if tokenizer.file is None:
        return tokenizer, ()
    before = described.origin or {}
    # A run reads the tokenizer where it was converted to; what came along lies there.
    is_theirs = described.is_run and before.get("format") == "hugging_face"
    home = tokenizer.file.parent if is_theirs else owner_of(described.folder)
    tokenizer = dataclasses.replace(tokenizer, others=companions(home, tokenizer.file))
    missing = set(before.get("companions", [])) - {path.name for path in tokenizer.others}
    notes = [f"{name}: came along, and is not in {home} now" for name in sorted(missing)]
    if tokenizer.open().fingerprint != described.tokenizer:
        raise ConfigError(
            f"input {described.folder}: its tokenizer was another one than data.text.tokenizer "
            f"{spec} is now; restore that file"
        )
    return tokenizer, tuple(notes)


def train_config(checkpoint: Checkpoint, home: Path) -> TrainConfig:
    """Settings for a run that begins with a model.

    Args:
      checkpoint: the model.
      home: folder of its weights.

    Raises:
      ConfigError: where the model has no tokenizer, or fewer tokens than it.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise ConfigError(
            "tokenizer null: the input comes with none; name its file, or byte for UTF-8 bytes"
        )
    if tokenizer.spec == "letters":
        data = DataConfig(source="block_search")
    else:
        data = DataConfig(
            source="text",
            batch_size=_ROWS,
            text=TextConfig(
                tokenizer=_file_name(tokenizer) or tokenizer.spec,
                bos_token=tokenizer.bos_token,
                eos_token=tokenizer.eos_token,
                sequence_length=min(checkpoint.length, _LONGEST_ROW),
            ),
        )
    is_half = checkpoint.origin.dtype == "bfloat16"
    try:
        return TrainConfig(
            run_dir=f"runs/{home.absolute().name}",
            model=dataclasses.replace(checkpoint.model, dtype="bfloat16" if is_half else "float32"),
            data=data,
            optimizer=OptimizerConfig(learning_rate=_LEARNING_RATE, warmup_steps=_WARMUP_STEPS),
            loss=LossConfig(tokens_at_once=_TOKENS_AT_ONCE),
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def check(checkpoint: Checkpoint, home: Path) -> None:
    """Makes sure that `write` can write a model, without writing it.

    Raises:
      ConfigError: where its tokenizer does not suit.
    """
    train_config(checkpoint, home)
    _fingerprint(checkpoint)


def _fingerprint(checkpoint: Checkpoint) -> str:
    """The fingerprint of a tokenizer that suits the model."""
    if checkpoint.tokenizer is None or checkpoint.tokenizer.spec == "letters":
        return "letters"
    tokenizer = checkpoint.tokenizer.open()
    if tokenizer.vocab_size > (checkpoint.model.vocab_size or 0):
        raise ConfigError(
            f"tokenizer {tokenizer.name}: the model has {checkpoint.model.vocab_size:,} tokens only"
        )
    return tokenizer.fingerprint


def write(checkpoint: Checkpoint, folder: Path, home: Path) -> None:
    """Writes a folder of weights.

    Args:
      checkpoint: the model.
      folder: an empty folder to write to.
      home: what it will be called.

    Raises:
      ConfigError: where the tokenizer does not suit the model.
      UserError: where something cannot be written.
    """
    config, tokenizer = train_config(checkpoint, home), checkpoint.tokenizer
    fingerprint = _fingerprint(checkpoint)
    others = tokenizer.others if tokenizer is not None else ()
    if tokenizer is not None and tokenizer.file is not None:
        shutil.copyfile(tokenizer.file, folder / str(_file_name(tokenizer)))
        for path in others:
            shutil.copyfile(path, folder / path.name)
    arrays = {name: jnp.asarray(array) for name, array in (checkpoint.arrays or {}).items()}
    origin: dict[str, Any] = dataclasses.asdict(checkpoint.origin)
    write_weights(
        folder,
        config,
        unflat(arrays, checkpoint.model),
        home=home,
        fingerprint=fingerprint,
        origin=origin | {"length": checkpoint.length, "companions": [x.name for x in others]},
    )


def _file_name(tokenizer: TokenizerFiles) -> str | None:
    if tokenizer.file is None:
        return None
    return "tokenizer.json" if tokenizer.file.suffix == ".json" else "tokenizer.model"
