"""How the documentation is built: `python -m sphinx -W --keep-going -b html docs build/docs`."""

import ast
import dataclasses
import importlib
import inspect
import os
import re
import shutil
import sys
import textwrap
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import mta_jax  # noqa: E402

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = _PROJECT["urls"]["Repository"]

project = "mta_jax"
release = version = mta_jax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

# Pages and notebooks.
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"

# Docstrings. What is in single backticks is a link where it names something.
default_role = "py:obj"
autodoc_default_options = {"special-members": "__call__"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
# Names of this package have to exist; others are not looked up, which would need a network.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!mta_jax\.).*")]

html_theme = "furo"
html_title = "mta_jax"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["mta_jax.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _bring_notebooks() -> None:
    """Copies notebooks, if there are any, to where Sphinx finds them; git ignores that folder."""
    folder = DOCS / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = []
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy2(notebook, folder)  # With its time: an unchanged one is not built again.
        names.append(notebook.stem)
    text = f"""# Notebooks

Each runs from top to bottom on a CPU, and is shown with the output that it had. They are in the
[repository]({REPOSITORY}/tree/main/notebooks).
"""
    if names:
        text += "\n".join(["", "```{toctree}", ":maxdepth: 1", "", *names, "```", ""])
    (folder / "index.md").write_text(text, encoding="utf-8")


_bring_notebooks()

_LINK = re.compile(r"(?<=\]\()\.\./[^)#\s\"]+")


def _links_out_of_docs(app, docname, source):
    """Links from a page to files that are no pages lead to the repository."""
    page = ROOT / docname if docname.startswith("notebooks/") else DOCS / docname

    def target(match):
        path = Path(os.path.normpath(page.parent / match[0]))
        if path.is_relative_to(DOCS):
            return Path(os.path.relpath(path, (DOCS / docname).parent)).as_posix()
        if not path.exists():
            return match[0]  # MyST warns about it.
        kind = "tree" if path.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{path.relative_to(ROOT).as_posix()}"

    source[0] = _LINK.sub(target, source[0])


def _signature_as_written(app, what, name, obj, options, signature, return_annotation):
    """Annotations as they stand in the source; evaluated ones fill lines."""
    if what not in ("class", "function", "method") or not signature:
        return None
    if what == "class" and (dataclasses.is_dataclass(obj) or "__init__" not in vars(obj)):
        return "", None  # Fields are listed below it.
    function = inspect.unwrap(obj.__init__ if what == "class" else obj)
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, ValueError):
        return None
    arguments = node.args
    if what != "function" and not any(
        isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list
    ):
        del (arguments.posonlyargs or arguments.args)[0]
    returns = None if what == "class" or node.returns is None else ast.unparse(node.returns)
    return f"({ast.unparse(arguments)})", returns


def linkcode_resolve(domain, info):
    """Where the source of a documented name stands in the repository."""
    try:
        found = importlib.import_module(info["module"])
        for part in info["fullname"].split("."):
            found = getattr(found, part)
        found = inspect.unwrap(found)
        path = Path(inspect.getsourcefile(found)).relative_to(ROOT)
        line = inspect.getsourcelines(found)[1]
    except (AttributeError, OSError, TypeError, ValueError):  # A value has no source of its own.
        return None
    return f"{REPOSITORY}/blob/main/{path.as_posix()}#L{line}"


def _text_below_a_field(app, what, name, obj, options, lines):
    """Keeps napoleon from taking what stands before the first colon for a type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


_LETTER = re.compile(r"^( *(?:\w+: )?)([A-Z]\.)(?= |$)")


def _letter_that_numbers_nothing(app, what, name, obj, options, lines):
    """Keeps reStructuredText from taking "N." for the fourteenth entry of a list."""
    lines[:] = [_LETTER.sub(r"\1\\\2", line) for line in lines]


def setup(app):
    """Connects what is above."""
    app.connect("source-read", _links_out_of_docs)
    app.connect("autodoc-process-docstring", _letter_that_numbers_nothing, priority=400)
    app.connect("autodoc-process-docstring", _text_below_a_field, priority=400)
    app.connect("autodoc-process-signature", _signature_as_written)
