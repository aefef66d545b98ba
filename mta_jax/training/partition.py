"""The parameters that a run trains, and the others."""

from typing import Any

import jax
from flax import nnx, traverse_util

from mta_jax.errors import ConfigError
from mta_jax.layers.low_rank import add_low_rank, merged
from mta_jax.models import Transformer
from mta_jax.models.flops import flops_per_token
from mta_jax.models.parts import MIXING, part_of
from mta_jax.training.config import TrainConfig
from mta_jax.training.finetune_config import FinetuneConfig

Params = Any
"""Pure dictionaries of parameters."""

_PARTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "mixing": MIXING,
    "norms": ("norms",),
    "attention": ("attention projections",),
    "mlp": ("feed-forward",),
    "embedding": ("embedding", "output layer"),
}
"""What `finetune.train` names, as parts of the model."""

_FLOPS = {
    "attention": "projections",
    "mlp": "feed_forward",
    "embedding": "output_layer",
}
"""Where the gradient of the weights of a part is counted."""


def build(config: TrainConfig, *, rngs: nnx.Rngs) -> Transformer:
    """The model of a run, low-rank terms included.

    Raises:
      ConfigError: where a term would be wider than its projection.
    """
    model, lora = Transformer(config.model, rngs=rngs), config.finetune.lora
    if lora.rank is not None:
        try:
            add_low_rank(model, lora.projections, rank=lora.rank, alpha=lora.alpha, rngs=rngs)
        except ValueError as error:
            raise ConfigError(f"finetune.lora.{error}") from None
    return model


def partition(params: Params, config: FinetuneConfig) -> tuple[Params, Params]:
    """Divides parameters into those that are trained and those that are not.

    Raises:
      ConfigError: where the model has none of a part that is to be trained.
    """
    if config.trains_all:
        return params, {}
    flat = traverse_util.flatten_dict(params)
    part = {path: part_of(path) for path in flat}
    for name in config.parts:
        if name != "none" and not set(_PARTS[name]) & set(part.values()):
            raise ConfigError(f"finetune.train {name}: the model has no such parameters")
    wanted = {"low-rank terms", *(inner for name in config.parts for inner in _PARTS[name])}
    trained = {path: leaf for path, leaf in flat.items() if part[path] in wanted}
    frozen = {path: leaf for path, leaf in flat.items() if part[path] not in wanted}
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(frozen)


def together(*trees: Params) -> Params:
    """One tree of what several have; of what is in more than one, the last has its way."""
    if not any(trees[1:]):
        return trees[0]
    flat = [traverse_util.flatten_dict(tree) for tree in trees]
    return traverse_util.unflatten_dict({path: x for tree in flat for path, x in tree.items()})


def without_low_rank(params: Params, config: FinetuneConfig) -> Params:
    """The parameters of the model alone: kernels include the terms that were beside them."""
    rank, alpha = config.lora.rank, config.lora.alpha
    if rank is None:
        return params
    return jax.jit(lambda params: merged(params, rank=rank, alpha=alpha))(params)


def training_flops(config: TrainConfig) -> int:
    """Model FLOPs of training, per token: no gradient of weights that are not trained.

    Those of low-rank terms, and of what lies below the first trained layer, are not told apart.
    """
    flops, finetune = flops_per_token(config.model, config.data.row_length), config.finetune
    if finetune.trains_all:
        return flops.training
    frozen = [field for part, field in _FLOPS.items() if part not in finetune.parts]
    return flops.training - sum(getattr(flops, field) for field in frozen)
