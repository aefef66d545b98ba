"""Which tensor of another library is which of our parameters."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from mta_jax.errors import UserError
from mta_jax.interop.layouts import Layout
from mta_jax.models import ModelConfig, Transformer
from mta_jax.models.rngs import rngs_of

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one of our parameters is.

    Attributes:
      name: of the tensor; in a table of layers, without what each name there begins with.
      layout: how its axes lie.
    """

    name: str
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Table:
    """The names of a library.

    Attributes:
      library: what it is called in messages.
      layer_prefix: what names of layer {} begin with.
      outside: by our dotted names outside the layers.
      layer: by our dotted names inside a layer.
    """

    library: str
    layer_prefix: str
    outside: Mapping[str, Place]
    layer: Mapping[str, Place]

    def place(self, name: str) -> Place:
        """The place of one of our parameters, by its dotted name.

        Raises:
          UserError: where the library has none like it.
        """
        parts = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        found = self.outside.get(name) if parts is None else self.layer.get(parts[2])
        if found is None:
            raise UserError(f"parameter {name}: {self.library} has none like it")
        if parts is None:
            return found
        return dataclasses.replace(found, name=self.layer_prefix.format(parts[1]) + found.name)


def parameter_shapes(model: ModelConfig) -> Shapes:
    """Shapes of a model's parameters by dotted name, ``layers.0.mlp.up_proj.kernel``."""
    return {name: tuple(leaf.shape) for name, leaf in flat(parameters_of(model)).items()}


def parameters_of(model: ModelConfig) -> Any:
    """A model's parameters as shapes and dtypes in a pure dictionary."""
    built = nnx.eval_shape(lambda: Transformer(model, rngs=rngs_of(jax.random.key(0))))
    return nnx.to_pure_dict(nnx.state(built, nnx.Param))


def flat(params: Any) -> dict[str, Any]:
    """The leaves of a tree of parameters by dotted name."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def unflat(arrays: Mapping[str, Any], model: ModelConfig) -> Any:
    """The tree of parameters with these leaves; the inverse of `flat`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[jax.tree_util.keystr(path, simple=True, separator=".")],
        parameters_of(model),
    )


def shortened(names: Iterable[str]) -> str:
    """All names in a few words: those of several layers once, with their number."""
    counts: dict[str, int] = {}
    for name in names:
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        counts[pattern] = counts.get(pattern, 0) + 1
    return ", ".join(
        pattern if count == 1 else f"{pattern} ({count})" for pattern, count in counts.items()
    )
