"""Multi-token attention put into a pretrained model (paper appendix I)."""

import dataclasses
from typing import Any

import jax
from flax import nnx, traverse_util

from mta_jax.models import ModelConfig, MTAConfig, Transformer
from mta_jax.models.parts import is_mixing
from mta_jax.models.rngs import rngs_of


def retrofitted_config(config: ModelConfig, mta: MTAConfig) -> ModelConfig:
    """The config of a model of ordinary attention that is given multi-token attention.

    Raises:
      ValueError: where the model has another kind of attention, or `mta` does not fit it.
    """
    if {config.attention_of(layer) for layer in range(config.num_layers)} != {"transformer"}:
        raise ValueError(
            f"model.attention {config.attention}: only a model of kind transformer can be given "
            "multi-token attention"
        )
    return dataclasses.replace(config, attention="mta", mta=mta)


def retrofit(
    config: ModelConfig, params: dict[str, Any], mta: MTAConfig, *, seed: int = 0
) -> tuple[ModelConfig, dict[str, Any]]:
    """Puts multi-token attention into a model of ordinary attention.

    Kernels that start as identities leave every output as it is, to rounding. A group norm
    does not, so where the function is to stay the same, `mta.group_norm` must be None;
    `mta_jax.models.parts.changed_by_mixing` tells.

    Args:
      config: of the model, every layer of kind "transformer".
      params: its parameters, as a pure dictionary; not changed.
      mta: what to put in.
      seed: decides gates and kernels that start at random.

    Returns:
      The new config, of kind "mta", and all parameters. Those of the model are the same
      arrays.

    Raises:
      ValueError: where the model has another kind of attention, or `mta` does not fit it.

    Example:
      >>> config = ModelConfig(vocab_size=258, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=64)
      >>> config = dataclasses.replace(config, attention="transformer")
      >>> model = Transformer(config, rngs=nnx.Rngs(0))
      >>> params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
      >>> new_config, new_params = retrofit(config, params, MTAConfig(group_norm=None))
      >>> new_config.attention
      'mta'
      >>> new_params["layers"][0]["attention"]["pre_kq"]["kernel"].shape
      (2, 6, 11)
    """
    new = retrofitted_config(config, mta)

    @jax.jit
    def added() -> dict[str, Any]:
        # What else the new model has is never computed: nothing reads it.
        model = Transformer(new, rngs=rngs_of(jax.random.key(seed)))
        flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        return traverse_util.unflatten_dict(
            {path: leaf for path, leaf in flat.items() if is_mixing(path)}
        )

    flat = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(added())
    return new, traverse_util.unflatten_dict(flat)
