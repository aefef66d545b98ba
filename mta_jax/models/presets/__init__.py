"""The paper's model sizes, as YAML files that the command line can read too."""

import dataclasses
from importlib import resources
from typing import Any, Literal

import yaml

from mta_jax.models.config import AttentionKind, ModelConfig, MTAConfig

PresetName = Literal["300m", "550m", "880m", "1b"]


def model_preset(
    name: PresetName, attention: AttentionKind = "mta", **overrides: Any
) -> ModelConfig:
    """A model of the paper by its size.

    Args:
      name: the paper's name of the size.
      attention: kind of attention of every layer.
      **overrides: fields of `ModelConfig` that differ from the paper's.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> config = model_preset("880m", vocab_size=32_000)
      >>> config.num_layers, config.embed_dim, config.num_heads
      (24, 1536, 16)
      >>> config.mta.pre_kq_kernel_size, config.mta.kq_layers
      ((6, 11), [2, 6, 10, 14, 18, 22])
      >>> model_preset("300m", attention="transformer").attention
      'transformer'
    """
    file = resources.files(__name__) / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(f"preset {name!r}: must be 300m, 550m, 880m or 1b")
    fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    mta = fields["mta"]
    for field in ("pre_kq_kernel_size", "post_kq_kernel_size"):
        mta[field] = tuple(mta[field])
    config = ModelConfig(**fields | {"mta": MTAConfig(**mta)})
    return dataclasses.replace(config, attention=attention, **overrides)
