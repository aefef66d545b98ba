"""A table that reads in a terminal and in Markdown."""

import dataclasses
from collections.abc import Sequence

from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of words.

    Attributes:
      title: above it.
      columns: headings.
      rows: cells of each row, as many as there are columns.
      num_words: first columns that hold words; the others hold figures, which stand on the right.
      note: below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_words: int = 1
    note: str = ""

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption=self.note or None)
        for number, column in enumerate(self.columns):
            # In a narrow terminal lines break at spaces, and long names anywhere.
            is_word = number < self.num_words
            table.add_column(column, justify="left" if is_word else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a file, with a line break at its end."""
        rules = ["---" if n < self.num_words else "---:" for n in range(len(self.columns))]
        lines = [_line(self.columns), f"|{'|'.join(rules)}|", *map(_line, self.rows)]
        note = f"\n{self.note}\n" if self.note else ""
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n" + note


def spelled(value: float, digits: int) -> str:
    """A figure with so many digits behind the point, or, where it is huge, its magnitude."""
    return f"{value:.{digits}f}" if value < 1e5 else f"{value:.2e}"


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
