"""Files of PyTorch, read without running what is in them."""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mta_jax.errors import UserError
from mta_jax.interop.libraries import library
from mta_jax.interop.tensors import DTYPES

# Before it, weights_only could be got around (CVE-2025-32434).
_OLDEST = (2, 6)


def torch(needed_by: str) -> Any:
    """PyTorch, of a version that loads weights safely.

    Raises:
      UserError: where it is missing or older.
    """
    found = library("torch", needed_by=needed_by)
    version = re.match(r"(\d+)\.(\d+)", found.__version__)
    if version is None or tuple(map(int, version.groups())) < _OLDEST:
        raise UserError(
            f"{needed_by}: needs PyTorch 2.6 or newer, which reads weights and runs nothing; "
            f"{found.__version__} is installed: pip install 'mta-jax[convert]'"
        )
    return found


class TorchFile:
    """The tensors of a model in a .pth file, mapped into memory where its format allows it.

    Args:
      path: the file.

    Raises:
      UserError: where it is damaged, or holds anything but tensors and plain values.
    """

    def __init__(self, path: Path):
        self.where = str(path)
        self._torch = torch(f"input {path}")
        # Files from before PyTorch 1.6 are no archives, and cannot be mapped.
        is_archive = zipfile.is_zipfile(path)
        try:
            content = self._torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"code ({found[1]})" if found else "what is no weights"
            raise UserError(f"{path}: holds {what}; refused, and nothing in it was run") from None
        # Whatever a broken file makes the reader raise, the answer is the same.
        except Exception as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: cannot be read as weights of PyTorch ({line})") from None
        weights = content.get("model", content) if isinstance(content, Mapping) else {}
        self._tensors = {
            name: tensor
            for name, tensor in (weights.items() if isinstance(weights, Mapping) else ())
            if isinstance(tensor, self._torch.Tensor)
        }
        if not self._tensors:
            raise UserError(f"{path}: holds no tensors by name under 'model'")

    def names(self) -> Iterable[str]:
        """Names of all."""
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        """Dtype of one."""
        return str(self._tensors[name].dtype).removeprefix("torch.")

    def read(self, name: str) -> np.ndarray:
        """One of them."""
        tensor = self._tensors[name].detach().contiguous()
        if self.dtype(name) == "bfloat16":
            # NumPy has no such dtype of its own.
            return tensor.view(self._torch.int16).numpy().view(DTYPES["bfloat16"])
        return tensor.numpy()


def write_torch(
    path: Path, tensors: Mapping[str, np.ndarray], *, aliases: Mapping[str, str]
) -> None:
    """Writes the tensors of a model as `TorchFile` reads them.

    Args:
      path: the file.
      tensors: by name.
      aliases: names of tensors that are others of them, by name.

    Raises:
      UserError: where PyTorch is missing.
    """
    library = torch(f"output {path}")

    def tensor_of(array: np.ndarray) -> Any:
        if array.dtype == DTYPES["bfloat16"]:
            return library.from_numpy(array.view(np.int16)).view(library.bfloat16)
        return library.from_numpy(array)

    model = {name: tensor_of(array) for name, array in tensors.items()}
    model |= {name: model[other] for name, other in aliases.items()}
    library.save({"model": model}, path)
