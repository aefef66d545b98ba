"""The documentation builds without a warning, and what it links to is there."""

import html.parser
import importlib
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/mta-jax/mta_jax"
PACKAGES = [
    "mta_jax.ops.multi_token_attention",
    "mta_jax.layers",
    "mta_jax.models",
    "mta_jax.data",
    "mta_jax.data.tokenizers",
    "mta_jax.data.sources",
    "mta_jax.data.needles",
    "mta_jax.inference",
    "mta_jax.generate",
    "mta_jax.evaluate.babilong",
    "mta_jax.interop.hugging_face",
    "mta_jax.interop.lingua",
    "mta_jax.viz",
]
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": "# Trial\n\n[a page](../docs/data.md) and [a file](../configs/demo.yaml)",
        },
        {
            "cell_type": "code",
            "id": "b",
            "execution_count": 1,
            "metadata": {},
            "source": "raise SystemExit('executed')",
            "outputs": [{"name": "stdout", "output_type": "stream", "text": "as it was"}],
        },
    ],
    "metadata": {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]
        self.anchors.add(attributes.get("id"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of this checkout and one notebook more."""
    pytest.importorskip("myst_nb")
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("site")
    for path in ROOT.iterdir():
        if path.name not in ("docs", "notebooks"):
            (checkout / path.name).symlink_to(path)
    for name in ("docs", "notebooks"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, checkout / name)
    (checkout / "notebooks").mkdir(exist_ok=True)
    (checkout / "notebooks" / "trial.ipynb").write_text(json.dumps(NOTEBOOK))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "docs",
            str(out),
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_links_and_anchors_of_the_site_are_there(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), (path.name, link)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, (path.name, link)


def test_links_to_files_that_are_no_pages_lead_to_the_repository(site):
    links = Page(site / "fused_path.html").links
    assert f"{REPOSITORY}/tree/main/mta_jax/ops/multi_token_attention" in links
    assert f"{REPOSITORY}/blob/main/tests/ops/attention_suite.py" in links


def test_a_notebook_is_shown_as_it_is_and_not_executed(site):
    page = site / "notebooks" / "trial.html"
    assert "as it was" in page.read_text()
    links = Page(page).links
    assert "../data.html" in links
    assert f"{REPOSITORY}/blob/main/configs/demo.yaml" in links
    assert "notebooks/trial.html" in Page(site / "index.html").links


def test_the_letter_of_an_axis_numbers_no_list(site):
    assert "N." in (site / "api" / "layers.html").read_text()
    assert [path.name for path in site.rglob("*.html") if "upperalpha" in path.read_text()] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_exports_is_in_the_reference(site, name):
    compressed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(compressed).decode().splitlines()
    known = {line.split(" ")[0].rpartition(".")[2] for line in lines if " py:" in line}
    package = importlib.import_module(name)
    exported = {part for part in package.__all__ if part != "main"}
    values = {part for part in exported if not callable(getattr(package, part))}
    assert exported - values
    assert exported - values <= known
