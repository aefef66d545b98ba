"""Which axis of which array is split over which axes of the mesh: the one table.

Arrays have logical axes, named here; the table gives each the axes of the mesh that it is
split over. Activations name their axes where they are made (`constrain`); parameters, and
with them everything of their shape in an optimiser's state, are known by the last two
parts of their names (`PARAMETERS`). Outside a mesh all of this does nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mta_jax.parallel.mesh import axis_sizes
from mta_jax.typing import Array

RULES: Mapping[str, tuple[str, ...]] = {
    # Of activations; the width of the model is never split.
    "batch": ("data", "fsdp"),
    "length": ("context",),
    # While the embedding is looked up.
    "copy": ("data",),
    # Inside attention, where heads are mixed.
    "query": ("context", "tensor"),
    # Of parameters; the rest is small and whole everywhere.
    "embed": ("fsdp",),
    # Of both.
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}

PARAMETERS: Mapping[tuple[str, str], tuple[str | None, ...]] = {
    ("embedding", "embedding"): ("vocab", "embed"),
    ("query_proj", "kernel"): ("embed", "heads", None),
    ("key_proj", "kernel"): ("embed", "kv_heads", None),
    ("value_proj", "kernel"): ("embed", "kv_heads", None),
    ("out_proj", "kernel"): ("heads", None, "embed"),
    ("gate_proj", "kernel"): ("embed", "mlp"),
    ("up_proj", "kernel"): ("embed", "mlp"),
    ("down_proj", "kernel"): ("mlp", "embed"),
    ("head", "kernel"): ("embed", "vocab"),
}

Tree = TypeVar("Tree")


def num_parts(axis: str, sizes: Mapping[str, int]) -> int:
    """Parts that a logical axis is split into on a mesh of these sizes."""
    return math.prod(sizes[name] for name in RULES[axis])


def spec_of(
    axes: Sequence[str | None], shape: Sequence[int], sizes: Mapping[str, int]
) -> PartitionSpec:
    """How an array is split on a mesh.

    Args:
      axes: its logical axes; None for one that is never split.
      shape: their lengths. What cannot be split evenly stays whole.
      sizes: devices along each axis of the mesh.
    """
    entries = []
    for axis, length in zip(axes, shape, strict=True):
        names: tuple[str, ...] = ()
        if axis is not None and length % num_parts(axis, sizes) == 0:
            names = tuple(name for name in RULES[axis] if sizes[name] > 1)
        entries.append(names or None)
    return PartitionSpec(*entries)


def constrain(x: Array, *axes: str | None) -> Array:
    """The same array, split as the table says of these logical axes."""
    sizes = axis_sizes()
    if not sizes:
        return x
    return lax.with_sharding_constraint(x, spec_of(axes, x.shape, sizes))


def constrain_state(tree: Tree) -> Tree:
    """The same tree, its leaves split as the parameters that they are or belong to."""
    sizes = axis_sizes()
    if not sizes:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: lax.with_sharding_constraint(x, _spec_of_leaf(path, x.shape, sizes)), tree
    )


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """Where the leaves of a tree belong, from their shapes; see `constrain_state`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, _spec_of_leaf(path, x.shape, mesh.shape)), tree
    )


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree, each with its sharding from a tree of the same structure."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def _spec_of_leaf(path: Any, shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
    names = tuple(str(getattr(entry, "key", entry)) for entry in path[-2:])
    axes = PARAMETERS.get(names) if len(names) == 2 else None
    if axes is None or len(axes) != len(shape):
        axes = (None,) * len(shape)
    return spec_of(axes, shape, sizes)
