"""Real text that every Python carries: its own sources and its reference manual.

About 12 MB of code, 1.8 MB of English prose in it, and 0.5 MB in the manual, with no
download and no file of this project. All are under the PSF licence.
"""

import ast
import functools
import sysconfig
import warnings
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

from mta_jax.data.sources.documents import Document

# Test suites are repetitive, and add-on packages are not the standard library.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_NODES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code() -> Sequence[Document]:
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


def docs() -> Sequence[Document]:
    """The topics of Python's built-in help, in the order of their names."""
    return [Document(name, text) for name, text in sorted(topics.items())]


@functools.cache
def docstrings() -> Sequence[Document]:
    """The docstrings of each of the standard library's sources, which have any.

    Takes seconds, once.

    Raises:
      FileNotFoundError: as of `code`.
    """
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        for source in code():
            try:
                tree = ast.parse(str(source.content))
            except SyntaxError:  # some files hold examples of other versions
                continue
            texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, _NODES)]
            if any(texts):
                found.append(Document(source.name, "\n\n".join(text for text in texts if text)))
    return found
