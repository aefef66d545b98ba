"""Files by path, folder or glob, and how to open them."""

import contextlib
import glob
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from mta_jax.data.optional import optional_library
from mta_jax.errors import ConfigError, UserError

Format = Literal["txt", "jsonl", "parquet", "array_record"]

_FORMATS: dict[str, Format] = {
    ".txt": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".array_record": "array_record",
    ".arrayrecord": "array_record",
}
_COMPRESSIONS = (".gz", ".zst")
_KNOWN = ".txt, .md, .jsonl, .ndjson (each also with .gz or .zst), .parquet, .array_record"


def format_of(path: Path) -> Format | None:
    """What a file holds, by the end of its name; None where that says nothing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        found = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return found if found in ("txt", "jsonl") else None
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def is_compressed(path: Path) -> bool:
    """Whether a file can be read from its start only."""
    return path.suffix.lower() in _COMPRESSIONS


def find_files(location: str, field: str) -> list[Path]:
    """The files that a path, a folder or a glob names, in the order of their names.

    Args:
      location: a file, a folder (all files of known formats in it, at any depth) or a
        glob, in which ``**`` stands for any folders.
      field: the setting it comes from, for messages.

    Raises:
      ConfigError: where there is none, or one of an unknown format.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and format_of(file)]
        if not found:
            raise ConfigError(f"{field} {location}: the folder has no file that ends in {_KNOWN}")
        return sorted(found)
    # A file may have brackets in its name.
    names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
    found = sorted(Path(name) for name in names if Path(name).is_file())
    if not found:
        raise ConfigError(f"{field} {location}: no such file, and as a glob it matches nothing")
    for file in found:
        if format_of(file) is None:
            raise ConfigError(f"{field} {location}: {file} ends in none of {_KNOWN}")
    return found


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Opens a file for reading, decompressed."""
    if path.suffix.lower() == ".gz":
        return cast(io.BufferedIOBase, gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        # `zstandard`, the older library, takes the end of a cut file for its end.
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        return import_library(name, path).open(path, "rb")
    return path.open("rb")


def import_library(name: str, needed_by: object) -> Any:
    """Imports a library of the extra `data`.

    Raises:
      ConfigError: where it is not installed.
    """
    try:
        return optional_library(name, needed_by=str(needed_by))
    except ValueError as error:
        raise ConfigError(str(error)) from None


@contextlib.contextmanager
def damage_reported(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Turns what a damaged file makes its reader raise into one line.

    Args:
      path: the file.
      *others: what this reader raises besides.

    Raises:
      UserError: names the file.
    """
    libraries = map(sys.modules.get, ("compression.zstd", "backports.zstd"))
    zstd_errors = [library.ZstdError for library in libraries if library]
    try:
        yield
    except (OSError, EOFError, zlib.error, *zstd_errors, *others) as error:
        raise UserError(f"{path} cannot be read to its end: {error}") from None
