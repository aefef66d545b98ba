"""The pictures that a run leaves in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from matplotlib.figure import Figure

from mta_jax import viz
from mta_jax.training.learned_kernels import CONVOLUTIONS, learned_kernels, titled
from mta_jax.training.loop import Result
from mta_jax.training.records import Row
from mta_jax.training.toy_attention import ToySample


def save_pictures(results: Mapping[str, Result], folder: Path) -> list[Path]:
    """Draws what the runs learned: curves, kernels, and for the toy task attention.

    Args:
      results: finished runs by name, all on the same data.
      folder: where the PNG files go.

    Returns:
      The files.
    """
    first = next(iter(results.values()))
    figures = {"curves": _curves(results)}
    for name, result in results.items():
        kernels = titled(learned_kernels(result.params), CONVOLUTIONS)
        if kernels:
            padding = result.program.config.model.mta.key_padding
            figures[f"kernels_{name}"] = viz.key_query_kernels(kernels, key_padding=padding)
    is_toy = first.program.config.data.source == "block_search"
    # Only one process draws, and the weights of attention need all of them.
    if is_toy and jax.process_count() == 1:
        figures["attention"] = _toy_attention(results)

    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths


def _curves(results: Mapping[str, Result]) -> Figure:
    runs = {name: result.rows for name, result in results.items()}
    return viz.learning_curves(runs, curves_of(runs))


def curves_of(runs: Mapping[str, Sequence[Row]]) -> dict[str, tuple[str, str]]:
    """Titles and axis labels of what there is to draw of runs, by its name in their rows."""
    figures = {"loss": ("Training loss", "nats per target token")}
    names = dict.fromkeys(name for rows in runs.values() for row in rows for name in row)
    for name in names:
        held_out, _, measure = name.rpartition("/")
        if measure == "error":
            figures[name] = ("Held-out samples with a wrong answer", "whole-answer error, %")
        elif measure == "bits_per_byte" and f"{held_out}/error" not in names:
            figures[name] = (f"Held-out text: {held_out}", "bits per byte")
    return figures


def _toy_attention(results: Mapping[str, Result]) -> Figure:
    """Attention of one held-out sample, from its question and answer to the blocks."""
    config = next(iter(results.values())).program.config
    sample = ToySample.of(config.data.block_search, seed=config.seed)
    maps = {}
    for name, result in results.items():
        where, weights = sample.best_map(result.program, result.params)
        maps[f"{name}: {where}"] = weights
    return sample.draw(maps)
