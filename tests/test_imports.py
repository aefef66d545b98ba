"""Imports go one way: what is basic never imports what is built on it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mta_jax"

# Each may import itself and what stands before it in its row.
ALLOWED = {
    "typing": set(),
    "errors": set(),
    "files": {"errors"},
    "provenance": set(),
    "command_line": {"errors"},
    "ops": {"typing"},
    "parallel": {"typing", "errors"},
    "layers": {"typing", "ops", "parallel"},
    "models": {"typing", "ops", "parallel", "layers"},
    "linen": {"typing", "layers", "models"},
    "inference": {"typing", "ops"},
    "viz": {"typing", "ops"},
    "hardware": {"errors"},
    "data": {"errors", "files"},
    "training": {
        "typing",
        "errors",
        "files",
        "provenance",
        "command_line",
        "hardware",
        "parallel",
        "layers",
        "models",
        "inference",
        "viz",
        "data",
    },
    "interop": {"typing", "errors", "ops", "layers", "models", "data"},
    "convert": {"errors", "files", "command_line", "models", "data", "training", "interop"},
    "prepare": {"errors", "files", "command_line", "data"},
    "generate": {"errors", "files", "command_line", "data", "inference", "training"},
    "evaluate": {
        "typing",
        "errors",
        "files",
        "provenance",
        "command_line",
        "viz",
        "data",
        "inference",
        "training",
        "generate",
    },
    "plan": {
        "errors",
        "files",
        "command_line",
        "hardware",
        "ops",
        "parallel",
        "models",
        "training",
    },
    "benchmark": {
        "typing",
        "errors",
        "files",
        "command_line",
        "hardware",
        "ops",
        "layers",
        "models",
        "inference",
        "data",
        "prepare",
        "training",
        "plan",
    },
}


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("mta_jax.")}
    return parts


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_it_is_built_on(part):
    folder = PACKAGE / part
    files = list(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]
    assert files
    for path in files:
        assert imported_parts(path) <= ALLOWED[part] | {part}, path


def test_every_part_has_its_place_in_the_order():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == set(ALLOWED)
