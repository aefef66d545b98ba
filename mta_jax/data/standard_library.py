"""Real text that every Python carries: its own sources and its reference manual.

About 12 MB of code and 0.5 MB of English prose, with no download and no file of
this project. Both are under the PSF licence.
"""

import dataclasses
import hashlib
import math
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

Domain = Literal["code", "docs"]

# Test suites are repetitive, and add-on packages are not the standard library.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclasses.dataclass(frozen=True)
class Document:
    """One file or topic."""

    domain: Domain
    name: str
    text: str


def documents(domain: Domain) -> list[Document]:
    """Every document of a domain, in the order of their names.

    Args:
      domain: "code", the standard library's sources without its tests, or "docs",
        the topics of Python's built-in help.

    Raises:
      FileNotFoundError: where the running Python has no sources (a frozen build).
    """
    if domain == "docs":
        return [Document("docs", name, text) for name, text in sorted(topics.items())]
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _SKIPPED_FOLDERS.intersection(relative.parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            found.append(Document("code", relative.as_posix(), text))
    if not found:
        raise FileNotFoundError(f"no Python sources in {root}: the domain 'code' needs them")
    return found


def split_off(
    found: Sequence[Document], heldout_fraction: float
) -> tuple[list[Document], list[Document]]:
    """Splits documents into training and held-out ones, whole documents at a time.

    The held-out ones are those whose names have the smallest hashes, so the choice
    depends on nothing but the names.

    Returns:
      The training and the held-out documents, each in the given order.

    Raises:
      ValueError: where no document is left for training.
    """

    def digest(document: Document) -> bytes:
        return hashlib.sha256(f"{document.domain}/{document.name}".encode()).digest()

    count = math.ceil(heldout_fraction * len(found))
    names = {document.name for document in sorted(found, key=digest)[:count]}
    if count >= len(found):
        raise ValueError(f"holding out {count} of {len(found)} documents leaves none for training")
    train = [document for document in found if document.name not in names]
    return train, [document for document in found if document.name in names]
