"""Files that a kill does not tear, and folders that one process works in at a time."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mta_jax.errors import UserError

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


@contextlib.contextmanager
def _figures_at(path: str) -> Iterator[Path]:
    try:
        yield Path(path).expanduser()
    except OSError as error:
        raise UserError(f"json {path}: cannot be written ({error.strerror})") from None


def check_figures(path: str) -> None:
    """Makes sure that figures can be written later; what is there stays.

    Raises:
      UserError: where they cannot.
    """
    with _figures_at(path) as file:
        file.open("a").close()


def write_figures(path: str, content: Any) -> None:
    """Writes the figures that a command's `json` setting asks for.

    Raises:
      UserError: where they cannot be written.
    """
    text = json.dumps(content, indent=2) + "\n"
    with _figures_at(path) as file:
        # /dev/stdout and the like are not to be replaced by a file.
        if file.is_symlink() or (file.exists() and not file.is_file()):
            file.write_text(text, encoding="utf-8")
        else:
            write_atomically(file, text)


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
