"""Multi-token attention put into a model between two formats."""

import dataclasses

import numpy as np
from flax import traverse_util

from mta_jax.errors import ConfigError
from mta_jax.interop.checkpoint import Checkpoint, Origin
from mta_jax.interop.names import flat, parameter_shapes, parameters_of, unflat
from mta_jax.interop.retrofit import retrofit, retrofitted_config
from mta_jax.models import MTAConfig
from mta_jax.models.parts import changed_by_mixing, is_mixing, spell_paths


def retrofitted(checkpoint: Checkpoint, mta: MTAConfig) -> Checkpoint:
    """The model with multi-token attention.

    Args:
      checkpoint: a model of ordinary attention, with or without its arrays.
      mta: what to put in.

    Raises:
      ConfigError: where the model has another kind of attention, or `mta` does not fit it.
    """
    try:
        model = retrofitted_config(checkpoint.model, mta)
    except ValueError as error:
        # Its settings are those of --mta here.
        line = str(error).replace("model.mta.", "mta.", 1)
        raise ConfigError(f"retrofit mta: {line}") from None
    arrays = checkpoint.arrays
    if arrays is not None:
        _, params = retrofit(checkpoint.model, unflat(arrays, checkpoint.model), mta)
        arrays = {name: np.asarray(leaf) for name, leaf in flat(params).items()}
    new = [path for path in traverse_util.flatten_dict(parameters_of(model)) if is_mixing(path)]
    notes = [f"new parameters: {spell_paths(new)}"] if new else ["no new parameters"]
    if settings := changed_by_mixing(model, new):
        notes.append(
            "they change what the model computes before it is trained, because of "
            f"{' and '.join(setting.removeprefix('model.') for setting in settings)}"
        )
    return dataclasses.replace(
        checkpoint,
        model=model,
        arrays=arrays,
        shapes=parameter_shapes(model),
        # It is no longer what it came from.
        origin=Origin(format="native", dtype=checkpoint.origin.dtype),
        notes=(*checkpoint.notes, *notes),
    )
