"""Sections for what evaluations found."""

from collections.abc import Callable, Sequence

from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.report.document import Block, Paragraph, Section
from mta_jax.evaluate.report.evaluations import Evaluation
from mta_jax.evaluate.report.hidden_facts import (
    BABILONG_IN_THE_PAPER,
    NEEDLES_IN_THE_PAPER,
    babilong_tables,
    needle_tables,
)
from mta_jax.evaluate.report.text_tables import (
    lambada_tables,
    lm_eval_tables,
    perplexity_tables,
)
from mta_jax.evaluate.report.toy import toy_tables

_SECTIONS: dict[str, tuple[str, Callable[[Evaluation], list[Grid]], str]] = {
    "toy": ("Block search", toy_tables, ""),
    "perplexity": ("Perplexity", perplexity_tables, ""),
    "lm_eval": ("Benchmarks", lm_eval_tables, ""),
    "lambada": ("LAMBADA", lambada_tables, ""),
    "needle": ("Needles in a haystack", needle_tables, NEEDLES_IN_THE_PAPER),
    "babilong": ("BABILong", babilong_tables, BABILONG_IN_THE_PAPER),
}


def result_sections(evaluations: Sequence[Evaluation]) -> list[Section]:
    """A section for each task, in the paper's order; others follow.

    Raises:
      ConfigError: where rows are not those of their task.
    """
    tasks = [*_SECTIONS, *dict.fromkeys(own.task for own in evaluations)]
    sections = []
    for task in dict.fromkeys(tasks):
        own = [evaluation for evaluation in evaluations if evaluation.task == task]
        if own:
            sections.append(_section(task, own))
    return sections


def _section(task: str, evaluations: Sequence[Evaluation]) -> Section:
    title, tables, about_the_paper = _SECTIONS.get(task, (task, _plain_table, ""))
    blocks: list[Block] = [Paragraph(about_the_paper)] if about_the_paper else []
    for evaluation in evaluations:
        blocks += tables(evaluation)
        blocks.append(Paragraph(f"{evaluation.name}. {evaluation.made()}"))
        blocks += evaluation.pictures()
    return Section(title, blocks)


def _plain_table(evaluation: Evaluation) -> list[Grid]:
    """The rows as they are."""
    columns = list(dict.fromkeys(name for row in evaluation.rows for name in row))
    return [
        Grid(
            title=evaluation.task,
            columns=columns,
            rows=[[str(row.get(name, "")) for name in columns] for row in evaluation.rows],
            num_words=len(columns),
        )
    ]
