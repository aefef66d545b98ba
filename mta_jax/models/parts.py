"""What each parameter of a model belongs to, by its name."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from mta_jax.models.config import ModelConfig

_PARTS = {
    "embedding": "embedding",
    "head": "output layer",
    "pre_kq": "key-query kernels",
    "post_kq": "key-query kernels",
    "pre_head": "head-mixing kernels",
    "post_head": "head-mixing kernels",
    "group_norm": "group norm and gates",
    "attention": "attention projections",
    "mlp": "feed-forward",
    "attention_norm": "norms",
    "mlp_norm": "norms",
    "final_norm": "norms",
    "query_norm": "norms",
    "key_norm": "norms",
    "lora_a": "low-rank terms",
    "lora_b": "low-rank terms",
}
_LAMBDAS = "differential lambdas"

PARTS = tuple(dict.fromkeys([*_PARTS.values(), _LAMBDAS]))
"""Every part, in the order of tables."""

MIXING = ("key-query kernels", "head-mixing kernels", "group norm and gates", _LAMBDAS)
"""Parts that ordinary attention lacks."""


def part_of(path: Sequence[Any]) -> str:
    """The part of the model that a parameter belongs to.

    Args:
      path: its names from the model on, such as ("layers", 0, "attention", "pre_kq", "kernel").
    """
    names = [str(name) for name in path]
    if names[-1].startswith("lambda_"):
        return _LAMBDAS
    # The innermost name that stands for a part: a kernel inside an attention is a kernel.
    return next(_PARTS[name] for name in reversed(names) if name in _PARTS)


def count_by_part(params: Mapping[str, Any]) -> dict[str, int]:
    """Number of parameters of each part of the model that has any."""
    counts = dict.fromkeys(PARTS, 0)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        counts[part_of([entry.key for entry in path])] += math.prod(leaf.shape)
    return {part: count for part, count in counts.items() if count}


def is_mixing(path: Sequence[Any]) -> bool:
    """Whether a parameter is one that ordinary attention lacks."""
    return part_of(path) in MIXING


def changed_by_mixing(config: ModelConfig, paths: Iterable[Sequence[Any]]) -> list[str]:
    """Why a model does not compute what it did before it was given these parameters.

    Args:
      config: of the model that has them.
      paths: the new parameters.

    Returns:
      The settings to blame; empty where every output is as before, to rounding.
    """
    parts, settings = {part_of(path) for path in paths}, []
    kernels = {"key-query kernels", "head-mixing kernels"} & parts
    if kernels and config.mta.kernel_init != "identity":
        settings.append(f"model.mta.kernel_init {config.mta.kernel_init}")
    if "group norm and gates" in parts:
        settings.append(f"model.mta.group_norm {config.mta.group_norm}")
    return settings


def spell_paths(paths: Iterable[Sequence[Any]]) -> str:
    """Parameters of layers by module, as in "pre_kq, post_kq in layers 2, 6; ...".

    Args:
      paths: of parameters inside attention.
    """
    layers: dict[str, set[int]] = {}
    for _, layer, _, module, *_ in paths:
        layers.setdefault(module, set()).add(layer)
    order = list(_PARTS)
    modules: dict[tuple[int, ...], list[str]] = {}
    for module in sorted(layers, key=lambda name: order.index(name) if name in order else -1):
        modules.setdefault(tuple(sorted(layers[module])), []).append(module)
    return "; ".join(
        f"{', '.join(names)} in {_spell_layers(found)}" for found, names in modules.items()
    )


def _spell_layers(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"
