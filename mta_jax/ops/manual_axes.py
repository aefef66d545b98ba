"""Mesh axes over which values differ, inside `jax.shard_map`.

There, with ``check_vma``, JAX knows of every value whether it differs between devices.
Branches and gradients written by hand have to agree on that, so it is settled first.
"""

from typing import Any

import jax
from jax import lax

from mta_jax.typing import Array


def varying_axes(tree: Any) -> frozenset[str]:
    """The axes over which any of these arrays differs; empty outside `shard_map`."""
    axes: frozenset[str] = frozenset()
    for x in jax.tree.leaves(tree):
        axes |= jax.typeof(x).manual_axis_type.varying
    return axes


def vary_alike(tree: Any) -> Any:
    """The same arrays, all of them taken to differ over the axes that any does.

    The gradient of one that did not is summed over the devices, as it should be.
    """
    axes = varying_axes(tree)
    if not axes:
        return tree

    def vary(x: Array) -> Array:
        missing = axes - varying_axes(x)
        return lax.pcast(x, tuple(missing), to="varying") if missing else x

    return jax.tree.map(vary, tree)
