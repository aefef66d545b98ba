"""What a run begins with: random weights or those of another run, with or without new ones."""

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
from mta_jax.training.saved_weights import check_weights, describe_weights, read_weights
from mta_jax.training.state import Program, State


def check_beginning(program: Program, tokenizer: Tokenizer) -> None:
    """Makes sure that a run can begin, without reading any weights.

    Raises:
      UserError: where the weights that it names are not there.
      ConfigError: where they are of another model, or random ones would never be trained.
    """
    config = program.config
    if config.init_from is not None:
        check_weights(config.init_from, program, tokenizer, "init_from")
    elif not config.finetune.trains_all:
        raise ConfigError(
            f"finetune.train {', '.join(config.finetune.parts)}: the other parameters would stay "
            "random; init_from must name weights to begin with"
        )


def origin_of(program: Program) -> dict[str, Any] | None:
    """What a run remembers of the model that it begins with, as plain values.

    Its format and settings before it was converted, the files that came along with its tokenizer,
    and the longest text that it is made for.
    None for random weights.
    """
    location = program.config.init_from
    if location is None:
        return None
    described = describe_weights(location, "init_from")
    before = described.origin or {}
    return {
        "format": before.get("format", "native"),
        "settings": before.get("settings", {}),
        "companions": before.get("companions", []),
        "length": described.length,
    }


def begin(program: Program, mesh: Mesh, tokenizer: Tokenizer, name: str) -> State:
    """The state before the first step, split over a mesh.

    Args:
      program: structure of the run.
      mesh: the devices; the current one.
      tokenizer: of the run.
      name: what lines about the run call it.

    Raises:
      UserError: where the weights to begin with cannot be read or do not fit.
    """
    location = program.config.init_from
    if location is None:
        return jax.jit(lambda: constrain_state(program.initial_state()))()
    new = check_weights(location, program, tokenizer, "init_from")
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
