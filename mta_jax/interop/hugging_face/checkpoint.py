"""A folder of config.json, safetensors and tokenizer, read and written."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mta_jax.interop.checkpoint import Checkpoint, Origin
from mta_jax.interop.companions import TOKENIZER_JSON
from mta_jax.interop.fields import Fields
from mta_jax.interop.hugging_face.files import SafetensorsFolder, write_safetensors
from mta_jax.interop.hugging_face.names import EMBEDDING, HEAD, TABLE
from mta_jax.interop.hugging_face.settings import model_config, settings_of
from mta_jax.interop.hugging_face.tokenizer import tokenizer_files
from mta_jax.interop.names import parameter_shapes
from mta_jax.interop.rotary import in_rope_layout
from mta_jax.interop.tensors import (
    check_tensors,
    check_tied,
    common_dtype,
    read_parameters,
    their_tensors,
)
from mta_jax.models import ModelConfig

CONFIG = "config.json"


def read(folder: Path, *, with_arrays: bool = True) -> Checkpoint:
    """Reads a folder.

    Args:
      folder: with config.json.
      with_arrays: whether to read the tensors; their names and shapes are checked anyway.

    Raises:
      ConfigError: where ours has no such model.
      UserError: where a file is missing or damaged.
    """
    config = Fields.read(folder / CONFIG)
    model, length = model_config(config)
    tensors = SafetensorsFolder(folder)
    shapes = parameter_shapes(model)
    dtypes = check_tensors(tensors, TABLE, shapes, ignored=_ignored(tensors, model))
    if model.tie_embeddings:
        check_tied(tensors, HEAD, EMBEDDING, "tie_word_embeddings")
    dtype, others = common_dtype(dtypes)
    return Checkpoint(
        model=model,
        arrays=read_parameters(tensors, TABLE, shapes) if with_arrays else None,
        shapes=shapes,
        length=length,
        tokenizer=tokenizer_files(folder, config),
        origin=Origin("hugging_face", dtype, others, config.values),
        notes=(
            *(f"{name}: computed anew, not read" for name in _buffers(tensors)),
            *_other_ends(config.values),
        ),
    )


def _buffers(tensors: SafetensorsFolder) -> list[str]:
    """Wavelengths of the rotary embedding, which early files hold."""
    return sorted(name for name in tensors.names() if name.endswith(".rotary_emb.inv_freq"))


def _other_ends(settings: Mapping[str, Any]) -> list[str]:
    """A line about end tokens besides the one of the tokenizer."""
    ends = settings.get("eos_token_id")
    if not isinstance(ends, list) or len(ends) < 2:
        return []
    return [
        f"eos_token_id {ends}: a text ends with the tokenizer's end token only; name others by stop"
    ]


def _ignored(tensors: SafetensorsFolder, model: ModelConfig) -> list[str]:
    return [*_buffers(tensors), *([HEAD] if model.tie_embeddings else [])]


def describe(checkpoint: Checkpoint, dtype: str | None) -> dict[str, Any]:
    """The config.json that `write` would write.

    Raises:
      ConfigError: where `transformers` has no such model.
    """
    before = checkpoint.settings_of("hugging_face")
    settings = settings_of(checkpoint.model, checkpoint.length, before)
    settings.pop("torch_dtype", None)
    settings["dtype"] = checkpoint.dtypes_of("hugging_face", dtype)[0]
    # Versions before 4.56 know the dtype by this name.
    settings["torch_dtype"] = settings["dtype"]
    if not before and checkpoint.tokenizer is not None and checkpoint.tokenizer.spec != "letters":
        tokenizer = checkpoint.tokenizer.open()
        settings |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return settings


def write(checkpoint: Checkpoint, folder: Path, dtype: str | None) -> None:
    """Writes a model to an empty folder.

    Args:
      checkpoint: the model.
      folder: the folder.
      dtype: of the tensors; None: those that the model came with.

    Raises:
      ConfigError: where `transformers` has no such model.
    """
    settings = describe(checkpoint, dtype)
    arrays, _ = in_rope_layout(checkpoint.arrays or {}, checkpoint.model, "half_split")
    common, others = checkpoint.dtypes_of("hugging_face", dtype)
    write_safetensors(folder, their_tensors(arrays, TABLE, others, common))
    text = json.dumps(settings, indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        return
    for path in tokenizer.others:
        shutil.copyfile(path, folder / path.name)
    if tokenizer.file is not None:
        is_json = tokenizer.file.suffix == ".json"
        name = TOKENIZER_JSON if is_json else "tokenizer.model"
        shutil.copyfile(tokenizer.file, folder / name)
