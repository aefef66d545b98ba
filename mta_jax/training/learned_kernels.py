"""The mixing kernels among the parameters of a model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mta_jax.layers.mixing import PLACES

CONVOLUTIONS, MIXTURES = ("pre_kq", "post_kq"), ("pre_head", "post_head")
"""Places of key-query kernels, and of head-mixing kernels."""

Kernels = dict[tuple[int, str], np.ndarray]
"""Kernels by layer and place: [N, Cq, Ck] of key-query convolutions, [M, Ch, Ch] of head mixing."""


def learned_kernels(params: Mapping[str, Any]) -> Kernels:
    """All mixing kernels of a model in float32, in the order of the layers.

    Args:
      params: its parameters.
    """
    layers = {int(layer): block["attention"] for layer, block in params["layers"].items()}
    return {
        (layer, place): np.asarray(layers[layer][place]["kernel"], np.float32)
        for layer in sorted(layers)
        for place in PLACES
        if place in layers[layer]
    }


def titled(kernels: Kernels, places: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of some places, by their titles in a picture."""
    return {
        f"Layer {layer}, {'before' if place.startswith('pre') else 'after'} softmax": kernel
        for (layer, place), kernel in kernels.items()
        if place in places
    }
