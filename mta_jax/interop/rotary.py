"""The same attention with the features of its rotary pairs in another order.

Queries and keys are compared feature by feature: where both are permuted alike, nothing
changes but which two features make a pair (`mta_jax.ops.rope.RopeLayout`).
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from mta_jax.models import ModelConfig
from mta_jax.ops.rope import RopeLayout

_ROTATED = re.compile(r"layers\.\d+\.attention\.(query|key)_(proj|norm)\.(kernel|bias|scale)")


def in_rope_layout(
    arrays: Mapping[str, np.ndarray], model: ModelConfig, layout: RopeLayout
) -> tuple[dict[str, np.ndarray], ModelConfig]:
    """A model in a layout of the rotary embedding; its outputs stay the same.

    Args:
      arrays: parameters by dotted name.
      model: what they are of.
      layout: the one wanted.

    Returns:
      The parameters and the model's settings.
    """
    if model.rope_layout == layout:
        return dict(arrays), model
    order = np.concatenate([np.arange(0, model.head_size, 2), np.arange(1, model.head_size, 2)])
    if layout == "interleaved":
        order = np.argsort(order)
    permuted = {
        name: np.asarray(array)[..., order] if _ROTATED.fullmatch(name) else array
        for name, array in arrays.items()
    }
    return permuted, dataclasses.replace(model, rope_layout=layout)
