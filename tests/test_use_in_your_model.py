"""The documentation's code runs as it stands."""

import inspect
import re
from pathlib import Path

import pytest
from flax import nnx

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.once
@pytest.mark.parametrize(
    "page", ["docs/use_in_your_model.md", "docs/fused_path.md", "docs/tutorial.md", "README.md"]
)
def test_code_of_the_page_runs_from_top_to_bottom(page):
    text = (ROOT / page).read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks
    names: dict = {"__name__": "page"}
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), page, "exec"), names)


@pytest.mark.parametrize("method", ["__init__", "__call__"])
def test_the_page_speaks_of_every_argument_of_flax(method):
    text = (ROOT / "docs/use_in_your_model.md").read_text()
    arguments = set(inspect.signature(getattr(nnx.MultiHeadAttention, method)).parameters)
    assert {name for name in arguments - {"self"} if f"`{name}`" not in text} == set()
