"""A folder of params.json, consolidated.pth and tokenizer, read and written."""

import json
import shutil
from pathlib import Path
from typing import Any

from mta_jax.interop.checkpoint import Checkpoint, Origin, TokenizerFiles
from mta_jax.interop.fields import Fields
from mta_jax.interop.lingua.files import TorchFile, write_torch
from mta_jax.interop.lingua.names import EMBEDDING, TIED_HEAD, table
from mta_jax.interop.lingua.settings import is_linear_after, model_config, settings_of
from mta_jax.interop.names import parameter_shapes
from mta_jax.interop.rotary import in_rope_layout
from mta_jax.interop.tensors import (
    check_tensors,
    check_tied,
    common_dtype,
    read_parameters,
    their_tensors,
)

PARAMS, WEIGHTS = "params.json", "consolidated.pth"

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

# Files that a tokenizer of a name may lie in beside the weights.
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")


def read(folder: Path, *, with_arrays: bool = True) -> Checkpoint:
    """Reads a folder.

    Args:
      folder: with params.json and consolidated.pth.
      with_arrays: whether to read the tensors; their names and shapes are checked anyway.

    Raises:
      ConfigError: where ours has no such model.
      UserError: where a file is missing, damaged, or holds anything but weights.
    """
    settings = Fields.read(folder / PARAMS)
    described = model_config(settings)
    model = described.model
    tensors = TorchFile(folder / WEIGHTS)
    names = table(is_linear_after=described.is_linear_after)
    shapes = parameter_shapes(model)
    ignored = [TIED_HEAD] if model.tie_embeddings else []
    dtypes = check_tensors(tensors, names, shapes, ignored=ignored)
    if model.tie_embeddings:
        check_tied(tensors, TIED_HEAD, EMBEDDING, "model.weight_tying")
    dtype, others = common_dtype(dtypes)
    return Checkpoint(
        model=model,
        arrays=read_parameters(tensors, names, shapes) if with_arrays else None,
        shapes=shapes,
        length=described.length,
        tokenizer=_tokenizer(folder, settings.section("data").section("tokenizer")),
        origin=Origin("lingua", dtype, others, settings.values),
    )


def _tokenizer(folder: Path, section: Fields) -> TokenizerFiles | None:
    """The tokenizer that a run was trained with; None where its file is not here."""
    name = section.values.get("name")
    if name in ("bytes", "char"):
        return TokenizerFiles("byte" if name == "bytes" else "letters")
    path = section.values.get("path")
    places = [Path(path)] if isinstance(path, str) else []
    places += [folder / file for file in _TOKENIZER_FILES]
    return next((TokenizerFiles(str(place)) for place in places if place.is_file()), None)


def describe(checkpoint: Checkpoint, dtype: str | None) -> dict[str, Any]:
    """The params.json that `write` would write.

    Raises:
      ConfigError: where the paper's code has no such model.
    """
    before = checkpoint.settings_of("lingua")
    section = settings_of(
        checkpoint.model,
        checkpoint.length,
        is_linear_after=_is_linear_after(checkpoint),
        before=before.get("model", {}),
    )
    common = checkpoint.dtypes_of("lingua", dtype)[0]
    settings = before | {
        "model": section,
        "distributed": before.get("distributed", {}) | {"model_dtype": _DTYPES[common]},
    }
    if "data" not in before and checkpoint.tokenizer is not None:
        settings["data"] = {"tokenizer": _tokenizer_section(checkpoint.tokenizer)}
    return settings


def _is_linear_after(checkpoint: Checkpoint) -> bool:
    before = checkpoint.settings_of("lingua").get("model", {}).get("mta") or {}
    return is_linear_after(checkpoint.model, before)


def _tokenizer_section(tokenizer: TokenizerFiles) -> dict[str, Any]:
    if tokenizer.file is None:
        return {"name": "bytes" if tokenizer.spec == "byte" else "char", "path": None}
    kinds = {"SentencePieceTokenizer": "sp", "TiktokenTokenizer": "tiktoken"}
    name = kinds.get(type(tokenizer.open()).__name__, "hf")
    return {"name": name, "path": tokenizer.file.name}


def write(checkpoint: Checkpoint, folder: Path, dtype: str | None) -> None:
    """Writes a model to an empty folder.

    Args:
      checkpoint: the model.
      folder: the folder.
      dtype: of the tensors; None: those that the model came with.

    Raises:
      ConfigError: where the paper's code has no such model.
    """
    settings = describe(checkpoint, dtype)
    arrays, _ = in_rope_layout(checkpoint.arrays or {}, checkpoint.model, "interleaved")
    common, others = checkpoint.dtypes_of("lingua", dtype)
    names = table(is_linear_after=_is_linear_after(checkpoint))
    tensors = their_tensors(arrays, names, others, common)
    aliases = {TIED_HEAD: EMBEDDING} if checkpoint.model.tie_embeddings else {}
    write_torch(folder / WEIGHTS, tensors, aliases=aliases)
    text = json.dumps(settings, indent=2) + "\n"
    (folder / PARAMS).write_text(text, encoding="utf-8")
    if checkpoint.tokenizer is not None and checkpoint.tokenizer.file is not None:
        shutil.copyfile(checkpoint.tokenizer.file, folder / checkpoint.tokenizer.file.name)
