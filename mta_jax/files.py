"""Files that a kill does not tear, and folders that one process works in at a time."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mta_jax.errors import ConfigError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
"""What the name of a file ends in until it is complete."""


def write_atomically(path: Path, text: str, *, temporary: Path | None = None) -> None:
    """Writes a file so that a reader, or a restart, sees all of it or nothing.

    Args:
      path: the file.
      text: its content.
      temporary: where to write it first, on the same disk; None: beside it.
    """
    temporary = temporary or path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_new_folder(folder: Path, setting: str) -> None:
    """Makes sure that a folder can be made: there is none, or an empty one.

    Args:
      folder: the folder.
      setting: that names it, for messages.

    Raises:
      ConfigError: where something is there already, or on the way to it.
    """
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ConfigError(f"{setting} {folder}: exists already; choose a new or empty folder")
        return
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{setting} {folder}: exists already; choose a new or empty folder")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ConfigError(f"{setting} {folder}: {above} is no folder")


@contextlib.contextmanager
def new_folder(folder: Path, setting: str) -> Iterator[Path]:
    """A folder to write to, whose content is where it belongs when all is written.

    Args:
      folder: what it is to be called. An empty one that exists stays the one that it is: it may
        be a link, a mounted disk, or the folder that the process works in.
      setting: that names it, for messages.

    Yields:
      A new folder beside it, or in it where it exists. It is removed where writing fails, and
      so are the folders above it that were missing.

    Raises:
      ConfigError: where something is there already.
      UserError: where it cannot be written.
    """
    check_new_folder(folder, setting)
    path = folder.absolute()
    name = f"{path.name}.{os.getpid()}{TEMPORARY}"
    is_there = path.is_dir()
    temporary = path / name if is_there else path.with_name(name)
    # From the innermost on.
    missing = [parent for parent in temporary.parents if not parent.exists()]
    is_written = False
    try:
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if is_there:
                _move_content(temporary, path)
            else:
                temporary.replace(path)
            is_written = True
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in () if is_written else missing:
                # Another process may have put something there.
                with contextlib.suppress(OSError):
                    parent.rmdir()
    except OSError as error:
        raise UserError(
            f"{setting} {folder}: cannot be written ({error.strerror or error})"
        ) from None


def _move_content(source: Path, target: Path) -> None:
    """Moves all that a folder holds into another one on the same disk, or nothing."""
    moved = []
    try:
        for entry in sorted(source.iterdir()):
            entry.rename(target / entry.name)
            moved.append(entry)
    except OSError:
        for entry in moved:
            (target / entry.name).rename(entry)
        raise


@contextlib.contextmanager
def _output_at(path: str, setting: str) -> Iterator[Path]:
    try:
        yield Path(path).expanduser()
    except OSError as error:
        raise UserError(f"{setting} {path}: cannot be written ({error.strerror})") from None


def check_output(path: str, setting: str) -> None:
    """Makes sure that a file can be written later; what is there stays.

    Args:
      path: the file.
      setting: that names it, for messages.

    Raises:
      UserError: where it cannot.
    """
    with _output_at(path, setting) as file:
        is_new = not file.exists()
        file.open("a").close()
        if is_new:
            file.unlink()


def write_output(path: str, setting: str, text: str) -> None:
    """Writes a file that a command was asked for, all of it or nothing.

    Args:
      path: the file.
      setting: that names it, for messages.
      text: its content.

    Raises:
      UserError: where it cannot be written.
    """
    with _output_at(path, setting) as file:
        # /dev/stdout and the like are not to be replaced by a file.
        if file.is_symlink() or (file.exists() and not file.is_file()):
            file.write_text(text, encoding="utf-8")
        else:
            write_atomically(file, text)


def check_figures(path: str) -> None:
    """`check_output` of the file that a command's `json` setting names."""
    check_output(path, "json")


def write_figures(path: str, content: Any) -> None:
    """`write_output` of the figures that a command's `json` setting asks for."""
    write_output(path, "json", json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def locked(path: Path, complaint: str) -> Iterator[None]:
    """Holds a lock meanwhile, which the system takes back when the process ends.

    Args:
      path: the file that stands for it; created where missing.
      complaint: what to say where another process holds it.

    Raises:
      UserError: where one does.
      OSError: where the file cannot be written.
    """
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(complaint) from None
            except OSError:
                pass  # some network file systems have no locks
        yield
