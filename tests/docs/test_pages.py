"""What the pages need of the repository, without building them."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "notebooks" not in page.parts),
]
# Pages that only a build makes.
MADE = {ROOT / "docs/notebooks/index.md"}
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def prose(page):
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """Anchors of the headings as forges make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() or target in MADE, link
        assert not anchor or anchor in anchors(target), link


def test_drawings_are_those_of_the_script():
    images = ROOT / "docs" / "images"
    pictures = runpy.run_path(str(images / "draw.py"))["PICTURES"]
    assert set(pictures) == {path.name for path in images.glob("*.svg")}
    for name, draw in pictures.items():
        assert (images / name).read_text(encoding="utf-8") == draw(), name
