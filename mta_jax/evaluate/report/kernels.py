"""Learned kernels by layer, as in the paper's appendix H."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mta_jax import viz
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.report.document import Block, Paragraph, Picture, drawn
from mta_jax.evaluate.report.parts import in_parts
from mta_jax.evaluate.report.runs import Run
from mta_jax.training.learned_kernels import CONVOLUTIONS, MIXTURES, Kernels, titled
from mta_jax.viz.kernels import panel_size

# Inches of a picture that is still legible on a page.
_WIDTH, _HEIGHT = 14.0, 11.0

# Layers with key-query kernels that are drawn, and head-mixing kernels in a picture.
_MOST_LAYERS, _MIXTURES = 4, 12


ABOUT_DISTANCES = (
    "Distances from the identity are norms of the difference by that of the identity: 0 leaves "
    "attention as it is, 1 is a kernel of zeros. kq: key-query convolution; head: head mixing; pre "
    "and post: before and after the softmax. Colours have one scale for all pictures of one sort "
    "of a run."
)


def kernel_blocks(run: Run, kernels: Kernels) -> list[Block]:
    """Pictures of a run's kernels, and how far they are from the identity; none without any.

    Args:
      run: the run.
      kernels: those of its newest checkpoint.
    """
    if not kernels:
        return []
    return [*_distances(run), *_convolutions(run, kernels), *_mixtures(run, kernels)]


def _distances(run: Run) -> list[Block]:
    """The last that the run has recorded."""
    rows = [row for row in run.rows if any(name.startswith("kernels/") for name in row)]
    if not rows:
        return []
    found: dict[str, dict[str, float]] = {}
    for name, value in rows[-1].items():
        if name.startswith("kernels/"):
            _, layer, place = name.split("/")
            found.setdefault(layer.removeprefix("layer_"), {})[place] = value
    places = sorted({place for own in found.values() for place in own})
    return [
        Grid(
            title=f"{run.name}: distance of kernels from the identity, step {rows[-1]['step']:,}",
            columns=["layer", *places],
            rows=[
                [layer, *(f"{own[place]:.3f}" if place in own else "" for place in places)]
                for layer, own in sorted(found.items(), key=lambda item: int(item[0]))
            ],
        )
    ]


def _convolutions(run: Run, kernels: Kernels) -> Iterator[Block]:
    layers = sorted({layer for layer, place in kernels if place in CONVOLUTIONS})
    if not layers:
        return
    chosen = evenly(layers, _MOST_LAYERS)
    if len(chosen) < len(layers):
        yield Paragraph(
            f"Of {run.name}'s {len(layers)} layers with key-query kernels, {len(chosen)} are drawn."
        )
    own = titled({key: kernel for key, kernel in kernels.items() if key[0] in chosen}, CONVOLUTIONS)
    limit = _largest(own.values())
    sizes = [panel_size(*kernel.shape[1:]) for kernel in own.values()]
    most_heads = max(1, int((_WIDTH - 1.2) / max(width for width, _ in sizes)))
    most_rows = max(1, int((_HEIGHT - 0.8) / max(height for _, height in sizes)))
    num_heads = max(kernel.shape[0] for kernel in own.values())
    # Parts of about the same size.
    heads_at_once = -(-num_heads // -(-num_heads // most_heads))
    rows_at_once = -(-len(own) // -(-len(own) // most_rows))
    starts = range(0, num_heads, heads_at_once)
    for titles, first in itertools.product(in_parts(own, rows_at_once), starts):
        part = {title: own[title][first : first + heads_at_once] for title in titles}
        figure = viz.key_query_kernels(
            part, key_padding=run.config.model.mta.key_padding, first_head=first, limit=limit
        )
        yield _picture(run, "key-query kernels", figure, f"{_span(titles)}, {_heads(first, part)}")


def _span(titles: Sequence[str]) -> str:
    first, last = titles[0].lower(), titles[-1].lower()
    return first if first == last else f"from {first}, to {last}"


def _heads(first: int, kernels: Mapping[str, np.ndarray]) -> str:
    last = first + max(kernel.shape[0] for kernel in kernels.values()) - 1
    return f"head {first}" if first == last else f"heads {first} to {last}"


def _mixtures(run: Run, kernels: Kernels) -> Iterator[Block]:
    own = titled(kernels, MIXTURES)
    if not own:
        return
    limit = _largest(own.values())
    for titles in in_parts(own, _MIXTURES):
        part = {title: own[title] for title in titles}
        figure = viz.head_mixing_kernels(part, limit=limit)
        yield _picture(run, "head mixing", figure, _span(titles))


def _picture(run: Run, what: str, figure: Figure, shown: str) -> Picture:
    return drawn(f"{what}-{run.name}", figure, f"{run.name}, {what}: {shown}.")


def evenly(layers: Sequence[int], count: int) -> list[int]:
    """So many of them, the first and the last included, the others evenly between."""
    if len(layers) <= count:
        return list(layers)
    return [layers[round(place)] for place in np.linspace(0, len(layers) - 1, count)]


def _largest(kernels: Iterable[np.ndarray]) -> float:
    return max(float(np.abs(kernel).max()) for kernel in kernels)
