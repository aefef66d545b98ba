"""From one format to another."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from mta_jax import files
from mta_jax.convert import native
from mta_jax.convert.config import ConvertConfig
from mta_jax.convert.retrofitting import retrofitted
from mta_jax.errors import ConfigError, UserError
from mta_jax.interop import hugging_face, lingua
from mta_jax.interop.checkpoint import FORMATS, Checkpoint, Format, TokenizerFiles

_READERS: dict[Format, Callable[..., Checkpoint]] = {
    "native": native.read,
    "hugging_face": hugging_face.read,
    "lingua": lingua.read,
}

# Companions of a tokenizer that say for themselves how documents begin and end.
_NAMING_TOKENS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def convert(config: ConvertConfig, *, dry_run: bool = False) -> list[str]:
    """Converts a model.

    Args:
      config: what, and to what.
      dry_run: whether to check everything that can be without reading the weights, and to
        write nothing.

    Returns:
      Lines that say what was converted.

    Raises:
      ConfigError: where a setting is wrong, or a format cannot represent the model.
      UserError: where a file is missing or damaged, or cannot be written.
    """
    folder, source = _located(config)
    output = Path(config.output).expanduser()
    files.check_new_folder(output, "output")
    if source == "native" and config.to == "native" and config.retrofit is None:
        raise ConfigError(
            f"to native: input {config.input} is that already; set to hugging_face or lingua"
        )
    # What can be refused is refused before gigabytes are read.
    checkpoint = _adapted(_READERS[source](folder, with_arrays=False), config)
    _check(checkpoint, config, output)
    if not dry_run:
        arrays = _adapted(_READERS[source](folder), config).arrays
        with files.new_folder(output, "output") as temporary:
            _write(dataclasses.replace(checkpoint, arrays=arrays), config, temporary, output)
    return _summary(checkpoint, config, source, dry_run=dry_run)


def _adapted(checkpoint: Checkpoint, config: ConvertConfig) -> Checkpoint:
    """The model as the settings want it."""
    if config.retrofit is not None:
        checkpoint = retrofitted(checkpoint, config.mta)
    return _with_tokenizer(checkpoint, config)


def _located(config: ConvertConfig) -> tuple[Path, Format]:
    """The folder that is read, and its format."""
    folder = Path(config.input).expanduser()
    if not folder.is_dir():
        problem = "a file; name its folder" if folder.exists() else "no such folder"
        raise ConfigError(f"input {folder}: {problem}")
    inner = folder / "consolidated"
    if config.input_format in (None, "lingua") and (inner / "params.json").is_file():
        return inner, "lingua"
    if config.input_format is not None:
        return folder, config.input_format
    if (folder / "config.json").is_file():
        return folder, "hugging_face"
    if (folder / "params.json").is_file():
        return folder, "lingua"
    if (folder / "config.yaml").is_file() or folder.name.isdecimal():
        return folder, "native"
    raise ConfigError(
        f"input {folder}: holds no checkpoint that is known; expected config.json and safetensors, "
        "params.json and consolidated.pth, or a run or weights of ours"
    )


def _with_tokenizer(checkpoint: Checkpoint, config: ConvertConfig) -> Checkpoint:
    """The model with the tokenizer that the settings name."""
    begin, end = config.bos_token, config.eos_token
    before = checkpoint.tokenizer
    if config.tokenizer is not None:
        tokenizer = TokenizerFiles(config.tokenizer, begin, end)
    elif before is not None:
        tokenizer = dataclasses.replace(
            before, bos_token=begin or before.bos_token, eos_token=end or before.eos_token
        )
    elif begin or end:
        raise ConfigError(
            f"{'bos_token' if begin else 'eos_token'} {begin or end}: the input comes with no "
            "tokenizer; set tokenizer"
        )
    else:
        return checkpoint
    changed = {
        "bos_token_id": config.tokenizer is not None or begin is not None,
        "eos_token_id": config.tokenizer is not None or end is not None,
    }
    if tokenizer.spec == "letters" or not any(changed.values()):
        return dataclasses.replace(checkpoint, tokenizer=tokenizer)
    opened = tokenizer.open()
    ids = {"bos_token_id": opened.bos_id, "eos_token_id": opened.eos_id}
    origin, notes = checkpoint.origin, checkpoint.notes
    if origin.format == "hugging_face":
        named = {name: ids[name] for name, is_changed in changed.items() if is_changed}
        origin = dataclasses.replace(origin, settings={**origin.settings, **named})
    if kept := [path.name for path in tokenizer.others if path.name in _NAMING_TOKENS]:
        notes = (*notes, f"{', '.join(kept)}: copied as it is, begin and end of a document too")
    return dataclasses.replace(checkpoint, tokenizer=tokenizer, origin=origin, notes=notes)


def _check(checkpoint: Checkpoint, config: ConvertConfig, output: Path) -> None:
    if config.to == "native":
        native.check(checkpoint, output)
    elif config.to == "hugging_face":
        hugging_face.describe(checkpoint, config.dtype)
    else:
        lingua.describe(checkpoint, config.dtype)


def _write(checkpoint: Checkpoint, config: ConvertConfig, folder: Path, output: Path) -> None:
    if checkpoint.arrays is None:
        raise UserError(f"input {config.input}: holds no weights")
    if config.to == "native":
        native.write(checkpoint, folder, output)
    elif config.to == "hugging_face":
        hugging_face.write(checkpoint, folder, config.dtype)
    else:
        lingua.write(checkpoint, folder, config.dtype)


def _summary(
    checkpoint: Checkpoint, config: ConvertConfig, source: Format, *, dry_run: bool
) -> list[str]:
    model = checkpoint.model
    kinds = dict.fromkeys(model.attention_of(layer) for layer in range(model.num_layers))
    count = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    dtype = "float32"
    if config.to != "native":
        dtype = checkpoint.dtypes_of(config.to, config.dtype)[0]
    heads = f"{model.num_heads} heads"
    if model.kv_heads != model.num_heads:
        heads += f", {model.kv_heads} of keys and values"
    tokenizer = checkpoint.tokenizer
    if tokenizer is None or tokenizer.spec == "letters":
        name = "none" if tokenizer is None else "letters"
    else:
        name = tokenizer.open().name
    lines = {
        "from": f"{FORMATS[source]}, {config.input} ({checkpoint.origin.dtype})",
        "to": f"{FORMATS[config.to]}, {config.output} ({dtype})",
        "attention": ", ".join(kinds),
        "model": f"{model.num_layers} layers, width {model.embed_dim}, {heads}",
        "parameters": f"{count:,} in {len(checkpoint.shapes)} arrays; none missing, none left over",
        "tokenizer": name,
    }
    notes = [f"{'note':<11} {note}" for note in checkpoint.notes]
    if dry_run:
        notes.append("nothing was written: dry_run")
    return [f"{name:<11} {text}" for name, text in lines.items()] + notes
