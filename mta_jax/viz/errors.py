"""Errors of several runs, by task."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mta_jax.viz.style import HATCHES, STYLES, as_they_are


def answer_errors(errors: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A bar for each mean, and a point for each run, in percent.

    Args:
      errors: shares of wrong answers of the runs, by what trained them and by task.
    """
    tasks = list(dict.fromkeys(task for own in errors.values() for task in own))
    figure = Figure(figsize=(max(1.1 * len(tasks) + 3.8, 7.2), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(errors)
    for index, (name, own) in enumerate(errors.items()):
        style = STYLES[index % len(STYLES)]
        places = np.array([tasks.index(task) for task in own]) + (index + 0.5) * width - 0.4
        means = [100 * float(np.mean(values)) for values in own.values()]
        axes.bar(
            places,
            means,
            width=0.9 * width,
            label=name,
            color=style["color"],
            alpha=0.55,
            edgecolor="black",
            hatch=HATCHES[index % len(HATCHES)],
        )
        for place, values in zip(places, own.values(), strict=True):
            axes.plot(
                np.full(len(values), place),
                [100 * value for value in values],
                linestyle="",
                marker=style["marker"],
                markersize=5,
                color="black",
                markeredgecolor="white",
                markeredgewidth=0.7,
            )
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("wrong answers, %")
    axes.set_ylim(-2, 105)
    axes.set_title("Wrong answers: bars are means, points are runs")
    axes.grid(axis="y", alpha=0.3)
    # Beside the bars, which may be as high as the panel anywhere.
    as_they_are(axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0)).get_texts())
    return figure
