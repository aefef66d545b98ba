"""Layers of equal structure as one compiled loop."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from mta_jax.layers import DifferentialAttention, GroupNorm
from mta_jax.typing import Array, Float

_BY_DEPTH: dict[type, str] = {DifferentialAttention: "lambda_init", GroupNorm: "factor"}
"""The attribute of a module that is a number made from the position of its layer."""

Apply = Callable[[nnx.Module, Array, Array | None], Array]
"""``(layer, x, dropout key) -> x``."""


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Neighbouring layers: a pattern, and how often it repeats.

    Attributes:
      start: the first layer.
      period: layers of the pattern.
      repeats: how often they come; 1 for layers that do not repeat.
    """

    start: int
    period: int
    repeats: int


def stretches(kinds: Sequence[Hashable], start: int = 0) -> list[Stretch]:
    """Divides layers into patterns that repeat, so that few layers need compiling.

    Takes the repetition that saves most layers, of several the one with the shortest
    pattern and of those the first; then the same for the layers before and after it.

    Args:
      kinds: of each layer; equal ones can share a loop.
      start: number of the first of them.

    Returns:
      Every layer once, in order.
    """
    # Comparing numbers is cheaper than comparing structures.
    kinds = [kinds.index(kind) for kind in kinds]
    found = [
        Stretch(start + first, period, repeats)
        for period in range(1, len(kinds) // 2 + 1)
        for first in range(len(kinds) - 2 * period + 1)
        if (repeats := _repeats(kinds[first:], period)) > 1
    ]
    if not found:
        return [Stretch(start, len(kinds), 1)] if kinds else []
    best = max(found, key=lambda stretch: stretch.period * (stretch.repeats - 1))
    first, last = best.start - start, best.start - start + best.period * best.repeats
    return [*stretches(kinds[:first], start), best, *stretches(kinds[last:], start + last)]


def _repeats(kinds: Sequence[Hashable], period: int) -> int:
    """How often the first `period` kinds come one after the other."""
    repeats = 1
    while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
        repeats += 1
    return repeats


def scan_layers(
    layers: Sequence[nnx.Module],
    keys: Sequence[Array | None],
    x: Float[Array, "B T D"],
    apply: Apply,
    apply_in_loop: Apply,
) -> Float[Array, "B T D"]:
    """Applies every layer, those that repeat inside `jax.lax.scan`.

    The loop reads the parameters of its layers stacked, a copy that lasts as long as
    it does. Layers that do not repeat run one by one.

    Args:
      layers: the layers, not changed by their application.
      keys: dropout key of each.
      x: input of the first.
      apply: applies one.
      apply_in_loop: the same for those that repeat.

    Returns:
      The output of the last.
    """
    split = [_Split.of(layer) for layer in layers]
    kinds = [
        (part.graphdef, part.shapes, key is None) for part, key in zip(split, keys, strict=True)
    ]
    for stretch in stretches(kinds):
        pattern = range(stretch.start, stretch.start + stretch.period)
        if stretch.repeats == 1:
            for layer in pattern:
                x = apply(layers[layer], x, keys[layer])
            continue

        def step(x: Array, inputs: list[Any], pattern: range = pattern) -> tuple[Array, None]:
            for layer, (arrays, key) in zip(pattern, inputs, strict=True):
                x = apply_in_loop(split[layer].merged(arrays), x, key)
            return x, None

        inputs = []
        for layer in pattern:
            equal = range(layer, layer + stretch.period * stretch.repeats, stretch.period)
            each = [(split[other].arrays, keys[other]) for other in equal]
            inputs.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
        x, _ = lax.scan(step, x, inputs)
    return x


@dataclasses.dataclass(frozen=True)
class _Split:
    """A layer as structure, which equal layers have in common, and arrays."""

    graphdef: nnx.GraphDef
    """Structure without the numbers made from the position of the layer."""

    arrays: tuple[Any, list[Any]]
    """The state, and those numbers."""

    @classmethod
    def of(cls, layer: nnx.Module) -> "_Split":
        copy = nnx.merge(*nnx.split(layer))
        depths = []
        for module, name in _depth_attributes(copy):
            depths.append(getattr(module, name))
            setattr(module, name, None)
        graphdef, state = nnx.split(copy)
        return cls(graphdef, (state, depths))

    @property
    def shapes(self) -> tuple[Any, ...]:
        return tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(self.arrays[0]))

    def merged(self, arrays: tuple[Any, list[Any]]) -> nnx.Module:
        """The layer of this structure with other arrays."""
        state, depths = arrays
        layer = nnx.merge(self.graphdef, state)
        for (module, name), depth in zip(_depth_attributes(layer), depths, strict=True):
            setattr(module, name, nnx.data(depth))
        return layer


def _depth_attributes(layer: nnx.Module) -> list[tuple[nnx.Module, str]]:
    return [
        (module, _BY_DEPTH[type(module)])
        for _, module in nnx.iter_modules(layer)
        if type(module) in _BY_DEPTH
    ]
