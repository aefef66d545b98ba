import io

from rich.console import Console

from mta_jax.evaluate.grid import Grid

GRID = Grid(
    title="Errors",
    columns=["attention", *(f"N={n} {a}" for n in (5, 8) for a in ("all", "first", "last"))],
    rows=[
        ["transformer", *["51.6 ± 43.1"] * 6],
        ["runs/with|a/very/long/name/of/a/run", *["1"] * 6],
    ],
    note="3 seeds.",
)


def test_a_narrow_terminal_shows_every_word_and_figure():
    file = io.StringIO()
    Console(file=file, width=80).print(GRID.table())
    printed = file.getvalue()
    # A name may be broken, and none of it is lost.
    first = "".join(line[1:11].strip() for line in printed.splitlines() if line.startswith("│"))
    assert first == "transformerruns/with|a/very/long/name/of/a/run"
    assert printed.count("51.6") == printed.count("43.1") == 6
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed


def test_markdown_has_a_line_for_each_row_and_escapes_bars():
    lines = GRID.markdown().splitlines()
    assert lines[:4] == ["**Errors**", "", lines[2], "|---|---:|---:|---:|---:|---:|---:|"]
    assert lines[4].startswith("| transformer | 51.6 ± 43.1 |")
    assert lines[5].startswith("| runs/with\\|a/very/long/name/of/a/run | 1 |")
    assert lines[-1] == "3 seeds."
