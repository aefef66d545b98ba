"""Runs notebooks from top to bottom and writes their .ipynb: ``python notebooks/execute.py``.

The .py is what one edits; the .ipynb is made of it, with its outputs.
"""

import argparse
import os
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def execute(source: Path) -> nbformat.NotebookNode:
    """Runs the cells of `source` in a fresh kernel, in an empty folder, with this checkout.

    Raises:
      nbclient.exceptions.CellExecutionError: for the first cell that fails.
    """
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    # Random names would make every run a change.
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata = nbformat.NotebookNode()
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})
    return notebook


def main() -> None:
    """Runs the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="such as 01_mta_from_scratch; default: all")
    names = parser.parse_args().names or [source.stem for source in SOURCES]
    for name in names:
        source = ROOT / "notebooks" / f"{name}.py"
        nbformat.write(execute(source), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
