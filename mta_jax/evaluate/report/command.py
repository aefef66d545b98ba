"""`python -m mta_jax.evaluate report`."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from mta_jax.command_line import parse
from mta_jax.evaluate.report.about_runs import curves_section, runs_section
from mta_jax.evaluate.report.attention import ToyAttention, prompt_tokens, text_attention
from mta_jax.evaluate.report.config import ReportConfig
from mta_jax.evaluate.report.document import (
    Block,
    Document,
    Paragraph,
    Section,
    with_different_names,
)
from mta_jax.evaluate.report.evaluations import read_evaluations
from mta_jax.evaluate.report.html import as_html
from mta_jax.evaluate.report.kernels import ABOUT_DISTANCES, kernel_blocks
from mta_jax.evaluate.report.markdown import PICTURES, as_markdown
from mta_jax.evaluate.report.results import result_sections
from mta_jax.evaluate.report.runs import Run, read_runs
from mta_jax.files import check_new_folder, new_folder
from mta_jax.provenance import provenance
from mta_jax.training.learned_kernels import learned_kernels

MARKDOWN_FILE, HTML_FILE = "report.md", "report.html"

_PROG = "mta_jax.evaluate report"


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    config, _ = parse(
        ReportConfig,
        arguments,
        prog=_PROG,
        description="A report in Markdown and HTML on runs and on what evaluations found.",
        has_dry_run=False,
    )
    folder = Path(config.output).expanduser()
    check_new_folder(folder, "output")
    write_document(report_of(config), folder)
    console = Console(highlight=False)
    for name in (HTML_FILE, MARKDOWN_FILE):
        console.print(f"Written to {folder / name}", soft_wrap=True, markup=False)
    return 0


def report_of(config: ReportConfig) -> Document:
    """The report.

    Raises:
      ConfigError: where a folder holds no run or no evaluation, or the prompt is too long.
      UserError: where a run is damaged.
    """
    start = time.monotonic()
    runs = read_runs(config.given_runs)
    evaluations = read_evaluations(config.given_evaluations)
    for run in runs:
        # Before the work, not after it.
        if run.learns_text:
            prompt_tokens(run, config.prompt)
    sections = [runs_section(runs), curves_section(runs)] if runs else []
    sections += result_sections(evaluations)
    sections += _look_inside(runs, config.prompt)
    made = provenance(command=_PROG, seconds=time.monotonic() - start)
    commit = f", commit {made['commit']}" if made["commit"] else ""
    return Document(
        title=_title(len(runs), len(evaluations)),
        made=f"Made on {made['date']} by {made['command']} (mta_jax {made['mta_jax']}{commit}).",
        sections=with_different_names(sections),
    )


def _title(num_runs: int, num_evaluations: int) -> str:
    counts = {"run": num_runs, "evaluation": num_evaluations}
    parts = [f"{n} {word}{'s' * (n > 1)}" for word, n in counts.items() if n]
    return f"Multi-token attention: {' and '.join(parts)}"


def _look_inside(runs: Sequence[Run], prompt: str) -> list[Section]:
    """Kernels and attention of all runs, one model in memory at a time."""
    kernels: list[Block] = []
    attention: list[Block] = []
    toy = ToyAttention()
    with Progress(transient=True) as progress:
        for run in progress.track(runs, description="report"):
            saved = run.weights()
            if saved is None:
                attention.append(Paragraph(f"{run.name} has no checkpoint yet."))
                continue
            kernels += kernel_blocks(run, learned_kernels(saved.params))
            if run.learns_text:
                attention.append(text_attention(run, saved, prompt))
            else:
                toy.add(run, saved)
    if kernels:
        kernels.insert(0, Paragraph(ABOUT_DISTANCES))
    sections = [Section("Kernels", kernels), Section("Attention", [*toy.blocks(), *attention])]
    return [section for section in sections if section.blocks]


def write_document(document: Document, folder: Path) -> None:
    """Writes both files, and the pictures of the Markdown.

    Raises:
      ConfigError: where the folder is there and not empty.
      UserError: where it cannot be written.
    """
    with new_folder(folder, "output") as path:
        (path / MARKDOWN_FILE).write_text(as_markdown(document), encoding="utf-8")
        (path / HTML_FILE).write_text(as_html(document), encoding="utf-8")
        if document.pictures:
            (path / PICTURES).mkdir()
        for picture in document.pictures:
            (path / PICTURES / f"{picture.name}.png").write_bytes(picture.png)
