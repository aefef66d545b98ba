"""The benchmarks of the paper's Table 3, and what its models have there."""

from collections.abc import Mapping, Sequence
from typing import Any

from mta_jax.evaluate.grid import Grid

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

# Accuracies in per cent of the paper's 880M models, in the order of TASKS, and their mean.
_PAPER = {
    "Transformer": (56.2, 70.2, 39.9, 38.5, 56.4, 57.9, 25.9, 23.8, 24.5, 43.7),
    "DIFF Transformer": (59.6, 70.5, 39.7, 38.9, 56.4, 57.7, 25.6, 21.4, 24.9, 43.9),
    "talking heads": (61.9, 71.4, 40.6, 39.4, 54.5, 58.2, 25.2, 23.6, 24.7, 44.4),
    "MTA": (62.1, 71.7, 40.4, 39.7, 57.2, 58.9, 24.7, 23.6, 25.8, 44.9),
}


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
    paper = {f"paper, 880M {name}": list(figures) for name, figures in _PAPER.items()}
    return Grid(
        title="Accuracy in per cent, as in the paper's Table 3",
        columns=["model", *TASKS, "mean"],
        rows=[[name, *(f"{x:.1f}" for x in line)] for name, line in {**own, **paper}.items()],
        note="The paper does not say which versions of the tasks it took; here it is acc, not "
        "acc_norm.",
    )
