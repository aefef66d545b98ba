"""Files that a kill does not tear, and folders that one process works in at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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
