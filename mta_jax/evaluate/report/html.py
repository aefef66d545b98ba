"""A report as one HTML file that needs no other."""

import base64
import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.report.document import Block, Document, Paragraph, Picture

# Nothing but what is in the file, should anything in it ever ask for more.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
body { margin: 0 auto; max-width: 64rem; padding: 1rem; color: #111; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #999; }
nav ul { padding-left: 1.2rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
.title { font-weight: bold; margin: 1.5rem 0 0.3rem; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ccc; text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid #555; }
.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.note, .made, figcaption { color: #444; font-size: 0.9rem; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .table { overflow: visible; }
  .title { break-after: avoid; }
  table { font-size: 8pt; }
  th, td { padding: 0.1rem 0.3rem; }
}
"""


def as_html(document: Document) -> str:
    """The text of the file. All that is not ours is text in it, never markup."""
    page = Element("html", lang="en")
    head = SubElement(page, "head")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY})
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _text(head, "title", document.title)
    _text(head, "style", _STYLE)
    body = SubElement(page, "body")
    _text(body, "h1", document.title)
    _text(body, "p", document.made, **{"class": "made"})
    contents = SubElement(SubElement(body, "nav"), "ul")
    for section in document.sections:
        name = re.sub(r"[^a-z0-9]+", "-", section.title.lower())
        _text(SubElement(contents, "li"), "a", section.title, href=f"#{name}")
        part = SubElement(body, "section", id=name)
        _text(part, "h2", section.title)
        for block in section.blocks:
            _add(part, block)
    return "<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="unicode", method="html")


def _add(parent: Element, block: Block) -> None:
    if isinstance(block, Paragraph):
        _text(parent, "p", block.text)
    elif isinstance(block, Grid):
        _add_grid(parent, block)
    else:
        _add_picture(parent, block)


def _add_grid(parent: Element, grid: Grid) -> None:
    _text(parent, "p", grid.title, **{"class": "title"})
    # A wide table is scrolled by itself; keys do that too where it has the focus.
    frame = SubElement(parent, "div", {"class": "table", "tabindex": "0"})
    table = SubElement(frame, "table", {"aria-label": grid.title})
    head = SubElement(SubElement(table, "thead"), "tr")
    for number, column in enumerate(grid.columns):
        _text(head, "th", column, scope="col", **_kind(number, grid))
    body = SubElement(table, "tbody")
    for row in grid.rows:
        line = SubElement(body, "tr")
        for number, cell in enumerate(row):
            if number == 0:
                _text(line, "th", cell, scope="row", **_kind(number, grid))
            else:
                _text(line, "td", cell, **_kind(number, grid))
    if grid.note:
        _text(parent, "p", grid.note, **{"class": "note"})


def _kind(number: int, grid: Grid) -> dict[str, str]:
    return {} if number < grid.num_words else {"class": "figure"}


def _add_picture(parent: Element, picture: Picture) -> None:
    figure = SubElement(parent, "figure")
    content = base64.b64encode(picture.png).decode("ascii")
    SubElement(figure, "img", src=f"data:image/png;base64,{content}", alt=picture.caption)
    _text(figure, "figcaption", picture.caption)


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text
