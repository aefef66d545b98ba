"""Safetensors of a folder, one file or several with an index."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mta_jax.errors import UserError
from mta_jax.interop.fields import Fields
from mta_jax.interop.libraries import library

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class SafetensorsFolder:
    """The tensors of a folder. Nothing is read before it is asked for.

    Args:
      folder: with model.safetensors, or the files that model.safetensors.index.json names.

    Raises:
      UserError: where there are none, or one is damaged.
    """

    def __init__(self, folder: Path):
        self.where = str(folder)
        self._library = library("safetensors", needed_by=f"input {folder}")
        self._files: dict[str, Any] = {}
        placed = _placed(folder)
        for file in dict.fromkeys(placed.values()) if placed else [_only_file(folder)]:
            opened = self._open(folder / file)
            found = set(opened.keys())
            for name in sorted(found & self._files.keys()):
                raise UserError(f"{folder / file}: tensor {name} is in another file too")
            for name in placed:
                if placed[name] == file and name not in found:
                    raise UserError(
                        f"{folder / file}: tensor {name} is not there, which {INDEX} says"
                    )
            self._files |= dict.fromkeys(found, opened)

    def names(self) -> Iterable[str]:
        """Names of all."""
        return self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Dtype of one."""
        kind = self._files[name].get_slice(name).get_dtype()
        return _DTYPES.get(kind, kind)

    def read(self, name: str) -> np.ndarray:
        """One of them."""
        return self._files[name].get_tensor(name)

    def _open(self, path: Path) -> Any:
        try:
            return self._library.safe_open(path, framework="np")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file, which {INDEX} names") from None
        except self._library.SafetensorError as error:
            cut = _cut_tensor(path)
            problem = f"tensor {cut} is cut off" if cut else "is damaged"
            raise UserError(f"{path}: {problem} ({' '.join(str(error).split())})") from None


def _placed(folder: Path) -> dict[str, str]:
    """The file of each tensor by the index; empty where there is none."""
    if not (folder / INDEX).is_file():
        return {}
    index = Fields.read(folder / INDEX)
    placed = index.get("weight_map", dict)
    for name, file in placed.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{folder / INDEX}: tensor {name}: {file!r} is no name of a file")
    return placed


def _only_file(folder: Path) -> str:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if SINGLE in files:
        return SINGLE
    if len(files) == 1:
        return files[0]
    problem = f"{len(files)} safetensors files and no {INDEX}" if files else "no safetensors"
    raise UserError(f"input {folder}: holds {problem}; expected {SINGLE}, or files with an index")


def _cut_tensor(path: Path) -> str | None:
    """The first tensor that ends behind the end of a file."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else {}
        ends = {
            name: 8 + size + entry["data_offsets"][1]
            for name, entry in header.items()
            if name != "__metadata__"
        }
        for name, end in sorted(ends.items(), key=lambda item: item[1]):
            if end > path.stat().st_size:
                return name
    return None


def write_safetensors(
    folder: Path, tensors: Mapping[str, np.ndarray], *, max_bytes: int = 5_000_000_000
) -> None:
    """Writes tensors to a folder, to several files where they do not fit into one.

    Args:
      folder: the folder.
      tensors: by name.
      max_bytes: of tensors in a file; a larger tensor has one for itself.

    Raises:
      UserError: where the library is missing.
    """
    save_file = library("safetensors.numpy", needed_by=f"output {folder}").save_file
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > max_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    # Some readers want to know which library's tensors they were.
    metadata = {"format": "pt"}
    if len(parts) == 1:
        save_file(parts[0], folder / SINGLE, metadata)
        return
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / file, metadata)
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
