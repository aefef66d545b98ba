"""Real text that every Python carries: its own sources and its reference manual.

About 12 MB of code and 0.5 MB of English prose, with no download and no file of
this project. Both are under the PSF licence.
"""

import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

from mta_jax.data.sources.documents import Document

# Test suites are repetitive, and add-on packages are not the standard library.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def code() -> list[Document]:
    """The standard library's sources without its tests, in the order of their names.

    Raises:
      FileNotFoundError: where the running Python has no sources (a frozen build).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _SKIPPED_FOLDERS.intersection(relative.parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            found.append(Document(relative.as_posix(), text))
    if not found:
        raise FileNotFoundError(f"no Python sources in {root}: 'python:code' needs them")
    return found


def docs() -> list[Document]:
    """The topics of Python's built-in help, in the order of their names."""
    return [Document(name, text) for name, text in sorted(topics.items())]
