"""A report as Markdown, beside its pictures."""

import dataclasses
import re

from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.report.document import Block, Document, Paragraph

PICTURES = "pictures"
"""Folder of the pictures, beside the file."""


def as_markdown(document: Document) -> str:
    """The text of the file."""
    parts = [f"# {escaped(document.title)}\n", f"{escaped(document.made)}\n"]
    for section in document.sections:
        parts.append(f"## {escaped(section.title)}\n")
        parts += [_block(block) for block in section.blocks]
    return "\n".join(parts)


def escaped(text: str) -> str:
    """Text that Markdown leaves as it is.

    An underscore inside a word means nothing, and bars are the tables' own business.
    """
    text = re.sub(r"([\\`*<>&\[\]~$])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"{escaped(block.text)}\n"
    if isinstance(block, Grid):
        return _grid(block).markdown()
    caption = escaped(" ".join(block.caption.split()))
    return f"![{caption}]({PICTURES}/{block.name}.png)\n\n{caption}\n"


def _grid(grid: Grid) -> Grid:
    return dataclasses.replace(
        grid,
        title=escaped(grid.title),
        columns=[escaped(cell) for cell in grid.columns],
        rows=[[escaped(cell) for cell in row] for row in grid.rows],
        note=escaped(grid.note),
    )
