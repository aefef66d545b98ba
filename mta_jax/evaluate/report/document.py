"""A report as data: sections of paragraphs, tables and pictures."""

import dataclasses
import io
import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from mta_jax.evaluate.grid import Grid


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
      name: of its file, without the ending: letters, digits, points, hyphens and underscores.
      png: the file.
      caption: what it shows; stands below it, and in its place for who cannot see it.
    """

    name: str
    png: bytes
    caption: str


Block = Paragraph | Grid | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report with a title."""

    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
      title: of all.
      made: how it was made, below the title.
      sections: those that have something to say.
    """

    title: str
    made: str
    sections: Sequence[Section]

    @property
    def pictures(self) -> list[Picture]:
        """All, in their order."""
        return [
            block
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Picture)
        ]


def drawn(name: str, figure: Figure, caption: str) -> Picture:
    """A figure as a picture; what may be no part of a file's name becomes a hyphen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return Picture(file_name(name), buffer.getvalue(), caption)


def file_name(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "picture"


def with_different_names(sections: Sequence[Section]) -> list[Section]:
    """The same sections, pictures of one name numbered from the second on."""
    seen: dict[str, int] = {}

    def renamed(block: Block) -> Block:
        if not isinstance(block, Picture):
            return block
        # Some file systems do not tell small letters from capitals.
        key = block.name.lower()
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 1:
            return block
        name = f"{block.name}-{seen[key]}"
        seen[name.lower()] = 1
        return dataclasses.replace(block, name=name)

    return [
        dataclasses.replace(section, blocks=[renamed(block) for block in section.blocks])
        for section in sections
    ]
