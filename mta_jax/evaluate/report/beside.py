"""Tables with the paper's figures below one's own."""

from collections.abc import Mapping, Sequence

from mta_jax.evaluate.grid import Grid

Line = tuple[str, str, Mapping[str, str]]
"""What a model is called, its kind of attention, and its figures by column."""


def beside_the_paper(
    title: str,
    own: Sequence[Line],
    paper: Sequence[Line],
    *,
    headings: Mapping[str, str],
    note: str = "",
) -> Grid:
    """One table of both.

    Args:
      title: above it.
      own: lines of the evaluation.
      paper: lines of the paper, after them.
      headings: of the paper's columns, in its order; own ones follow by their names.
      note: below it.
    """
    lines = [*own, *paper]
    filled = dict.fromkeys(column for _, _, figures in lines for column in figures)
    columns = [column for column in headings if column in filled]
    columns += [column for column in filled if column not in headings]
    return Grid(
        title=title,
        columns=["model", "attention", *(headings.get(column, column) for column in columns)],
        rows=[
            [name, kind, *(figures.get(column, "") for column in columns)]
            for name, kind, figures in lines
        ],
        num_words=2,
        note=note,
    )


def paper_lines(
    name: str, table: Mapping[str, Sequence[str | float]], columns: Sequence[str]
) -> list[Line]:
    """Lines of one of the paper's tables, by kind of attention."""
    return [
        (name, kind, dict(zip(columns, map(str, figures), strict=True)))
        for kind, figures in table.items()
    ]
