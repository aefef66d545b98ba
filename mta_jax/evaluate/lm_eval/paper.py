"""The benchmarks of the paper's Table 3, and what its models have there."""

from collections.abc import Mapping, Sequence
from typing import Any

from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.paper import TABLE_3

TASKS = {
    "boolq": 0,
    "piqa": 0,
    "social_iqa": 0,
    "hellaswag": 0,
    "winogrande": 0,
    "arc_easy": 0,
    "arc_challenge": 0,
    "openbookqa": 0,
    "mmlu": 5,
}
"""Names in the harness, and the solved examples before each question."""


def beside_the_paper(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Accuracies of each model and their mean, with those of the paper below.

    Args:
      rows: the figures of all tasks.
    """
    accuracies: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["metric"] == "acc" and row["task"] in TASKS:
            accuracies.setdefault(row["model"], {})[row["task"]] = 100 * row["value"]
    own = {
        model: [*(found[task] for task in TASKS), sum(found.values()) / len(found)]
        for model, found in accuracies.items()
    }
    paper = {f"paper, 880M {name}": list(figures) for name, figures in TABLE_3.items()}
    return Grid(
        title="Accuracy in per cent, as in the paper's Table 3",
        columns=["model", *TASKS, "mean"],
        rows=[[name, *(f"{x:.1f}" for x in line)] for name, line in {**own, **paper}.items()],
        note="The paper does not say which versions of the tasks it took; here it is acc, not "
        "acc_norm.",
    )
