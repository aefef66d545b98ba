"""What a run begins with: random weights or those of another run, with or without new ones."""

import dataclasses
import math
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh

from mta_jax.data import Tokenizer
from mta_jax.errors import ConfigError
from mta_jax.models.parts import changed_by_mixing, spell_paths
from mta_jax.parallel.rules import constrain_state
from mta_jax.training.partition import Params, together
from mta_jax.training.same_model import allowed_differences
from mta_jax.training.saved_weights import (
    Description,
    check_weights,
    describe_weights,
    read_weights,
)
from mta_jax.training.state import Program, State


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What is known of a run before any weights are read.

    Attributes:
      new: names of the parameters that the weights which it begins with lack.
      origin: what the run remembers of them, as plain values: their format and settings before
        they were converted, the files that came along with their tokenizer, and the longest
        text that they are made for. None for random weights.
    """

    new: list[tuple[Any, ...]]
    origin: dict[str, Any] | None


def check_beginning(program: Program, tokenizer: Tokenizer) -> Beginning:
    """Makes sure that a run can begin, without reading any weights.

    Raises:
      UserError: where the weights that it names are not there.
      ConfigError: where they are of another model, or random ones would never be trained.
    """
    config = program.config
    if config.init_from is not None:
        described = describe_weights(config.init_from, "init_from")
        new = check_weights(described, program, tokenizer, "init_from")
        return Beginning(new, _origin_of(described))
    if not config.finetune.trains_all:
        raise ConfigError(
            f"finetune.train {', '.join(config.finetune.parts)}: the other parameters would stay "
            "random; init_from must name weights to begin with"
        )
    return Beginning([], None)


def _origin_of(described: Description) -> dict[str, Any]:
    before = described.origin or {}
    return {
        "format": before.get("format", "native"),
        "settings": before.get("settings", {}),
        "companions": before.get("companions", []),
        "length": described.length,
    }


def begin(program: Program, mesh: Mesh, new: list[tuple[Any, ...]], name: str) -> State:
    """The state before the first step, split over a mesh.

    Args:
      program: structure of the run.
      mesh: the devices; the current one.
      new: of its `Beginning`.
      name: what lines about the run call it.

    Raises:
      UserError: where the weights to begin with cannot be read.
    """
    location = program.config.init_from
    if location is None:
        return jax.jit(lambda: constrain_state(program.initial_state()))()
    saved = read_weights(location, "init_from", mesh=mesh)
    print(f"{name}: beginning with the weights of {saved.folder}")
    for line in allowed_differences(saved.program.config.model, program.config.model):
        print(f"{name}: {line}")
    if new:
        shapes = traverse_util.flatten_dict(jax.eval_shape(program.initial_params))
        count = sum(math.prod(shapes[path].shape) for path in new)
        print(f"{name}: with {count:,} new parameters: {spell_paths(new)}")
        if settings := changed_by_mixing(program.config.model, new):
            print(
                f"{name}: they change what the model computes before it is trained, because of "
                f"{' and '.join(settings)}"
            )

    def state_with(saved: Params) -> State:
        # What is saved is never made at random: nothing reads that.
        return constrain_state(program.state_of(together(program.initial_params(), saved)))

    return jax.jit(state_with)(saved.params)
