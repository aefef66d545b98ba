"""Notebooks run from top to bottom, and what is committed is what they show."""

import re
import tomllib

import jupytext
import nbformat
import pytest

from notebooks.execute import ROOT, SOURCES, execute

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def executed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def outputs(source):
    return [out for cell in executed(source).cells for out in cell.get("outputs", [])]


def text_of(output):
    """What a reader sees of it, pictures aside."""
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return "\n".join(text for kind, text in data.items() if not kind.startswith("image/png"))


def install_cell(source):
    return next(cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code")


@pytest.mark.notebook
@every_notebook
def test_runs_from_top_to_bottom(source, monkeypatch):
    # They train for minutes: compiled as quickly as the tests' small programs, for twice as long.
    monkeypatch.delenv("XLA_FLAGS")
    cells = execute(source).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


@every_notebook
def test_the_two_files_of_a_notebook_have_the_same_cells(source):
    cells = [
        [(cell.cell_type, cell.source) for cell in notebook.cells]
        for notebook in (jupytext.read(source), executed(source))
    ]
    assert cells[0] == cells[1]


@every_notebook
def test_was_executed_from_top_to_bottom(source):
    counts = [cell.execution_count for cell in executed(source).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    nbformat.validate(executed(source))


@every_notebook
def test_is_small(source):
    assert source.with_suffix(".ipynb").stat().st_size < 300_000


@every_notebook
def test_outputs_are_free_of_errors_and_warnings(source):
    assert [out for out in outputs(source) if out.output_type == "error"] == []
    assert [out.text for out in outputs(source) if out.get("name") == "stderr"] == []


@every_notebook
def test_outputs_are_free_of_what_the_machine_was(source):
    path_or_address = re.compile(r"(?<![\w:/.])/(?:[\w.-]+/)+[\w.-]+|\b0x[0-9a-f]{6,}")
    assert [path_or_address.findall(text_of(out)) for out in outputs(source)] == [
        [] for _ in outputs(source)
    ]


@every_notebook
def test_begins_with_a_title_and_a_badge(source):
    first = jupytext.read(source).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \w", first.source)
    path = REPOSITORY.removeprefix("https://github.com")
    target = (
        f"https://colab.research.google.com/github{path}/blob/main/notebooks/{source.stem}.ipynb"
    )
    assert re.findall(r"\]\((https://colab\.research\.google\.com/github/.*?)\)", first.source) == [
        target
    ]


@every_notebook
def test_the_readme_links_to_it(source):
    assert f"/blob/main/notebooks/{source.stem}.ipynb)" in (ROOT / "README.md").read_text()


@every_notebook
def test_install_cells_are_alike(source):
    assert install_cell(source) == install_cell(SOURCES[0])
    assert f"git+{REPOSITORY}" in install_cell(source)


def run_install_cell(monkeypatch, jax_version):
    """Runs the cell as where mta_jax is missing and `jax_version` is installed."""
    calls = []

    class Distribution:
        def __init__(self, name, version):
            self.name, self.version = name, version

    names = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt")
    installed = [Distribution(name, jax_version) for name in names if jax_version]
    installed.append(Distribution("jaxtyping", "0.3.3"))

    def pip(command, check):
        constraints = command[command.index("--constraint") + 1]
        with open(constraints) as lines:
            calls.append((command, lines.read().split()))

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.distributions", lambda: installed)
    monkeypatch.setattr("subprocess.run", pip)
    exec(install_cell(SOURCES[0]), {})
    return calls


def test_install_cell_leaves_what_is_there(monkeypatch):
    monkeypatch.setattr("subprocess.run", None)
    exec(install_cell(SOURCES[0]), {})


def test_install_cell_keeps_the_jax_of_the_runtime(monkeypatch):
    [(command, constraints)] = run_install_cell(monkeypatch, "0.11.3")
    assert command[-1] == f"git+{REPOSITORY}"
    assert constraints == [
        "jax==0.11.3",
        "jaxlib==0.11.3",
        "jax-cuda13-plugin==0.11.3",
        "jax-cuda13-pjrt==0.11.3",
    ]


def test_install_cell_installs_jax_where_there_is_none(monkeypatch):
    [(_, constraints)] = run_install_cell(monkeypatch, None)
    assert constraints == []


def test_install_cell_refuses_a_jax_that_is_too_old(monkeypatch):
    [oldest] = [
        dependency.removeprefix("jax>=")
        for dependency in PROJECT["dependencies"]
        if dependency.startswith("jax>=")
    ]
    major, minor = map(int, oldest.split("."))
    assert run_install_cell(monkeypatch, f"{oldest}.0")
    with pytest.raises(RuntimeError, match=f"JAX {major}.{minor - 1}.9.*needs {oldest} or newer"):
        run_install_cell(monkeypatch, f"{major}.{minor - 1}.9")
