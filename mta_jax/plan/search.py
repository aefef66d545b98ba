"""Other ways to run the same step: meshes, micro-batches, rematerialisation."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from mta_jax.errors import ConfigError
from mta_jax.models.config import Rematerialization
from mta_jax.parallel.mesh import MeshConfig
from mta_jax.parallel.rules import num_parts
from mta_jax.training.config import TrainConfig
from mta_jax.training.mesh import mesh_sizes

_REMATS: tuple[Rematerialization, ...] = ("none", "dots", "attention", "full")


def easier(config: TrainConfig, num_devices: int) -> Iterator[TrainConfig]:
    """The same run in less and less memory, the nearest first.

    First rematerialisation, then smaller parts of a batch, then rows split between devices.
    """
    if config.model.remat != "full":
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="full"))
        yield config
    while (smaller := _with(config, num_devices, accumulate=2 * config.accumulate)) is not None:
        config = smaller
        yield config
    parts = 2
    while parts <= num_devices:
        mesh = dataclasses.replace(config.mesh, data=1, fsdp=None, context=parts)
        if (split := _with(config, num_devices, mesh=mesh)) is not None:
            yield split
        parts *= 2


def candidates(config: TrainConfig, num_devices: int) -> list[TrainConfig]:
    """Every mesh of powers of two with every micro-batch, fastest first by rule of thumb.

    Fewer parts of a batch gather weights less often, less is computed again, and splitting
    batches sends least; memory decides which of them work.
    """
    powers = [2**n for n in range(num_devices.bit_length())]
    found = []
    for tensor, context, remat in itertools.product(powers[:4], powers[:4], _REMATS):
        mesh = MeshConfig(tensor=tensor, context=context)
        model = dataclasses.replace(config.model, remat=remat)
        for accumulate in powers:
            changed = _with(config, num_devices, mesh=mesh, model=model, accumulate=accumulate)
            if changed is not None:
                found.append(changed)

    def cost(config: TrainConfig) -> tuple[float, int]:
        again = {"none": 1.0, "dots": 1.1, "attention": 1.25, "full": 4 / 3}[config.model.remat]
        splits = config.mesh.tensor * config.mesh.context
        return again * (1 + 0.1 * (splits - 1)) * (1 + 0.05 * (config.accumulate - 1)), splits

    return sorted(found, key=cost)


def activation_bytes(config: TrainConfig, num_devices: int) -> int:
    """What a device keeps for the gradient at the very least: vectors per token and layer."""
    sizes = mesh_sizes(config, num_devices)
    tokens = config.held_out_rows * config.data.row_length
    tokens //= num_parts("batch", sizes) * num_parts("length", sizes)
    model = config.model
    heads = model.num_heads * model.head_size / model.embed_dim
    vectors = {
        "full": 1,
        "attention": 1 + heads,
        "dots": 6 + heads + 2 * model.mlp_size / model.embed_dim,
        "none": 16,
    }[model.remat]
    item = 2 if model.dtype == "bfloat16" else 4
    return int(tokens * model.num_layers * model.embed_dim * item * vectors)


def changes(before: TrainConfig, after: TrainConfig) -> str:
    """The flags that make one config of another."""
    flags = []
    for axis in ("data", "fsdp", "tensor", "context"):
        old, new = getattr(before.mesh, axis), getattr(after.mesh, axis)
        if old != new:
            flags.append(f"--mesh.{axis} {'null' if new is None else new}")
    if before.accumulate != after.accumulate:
        flags.append(f"--accumulate {after.accumulate}")
    if before.model.remat != after.model.remat:
        flags.append(f"--model.remat {after.model.remat}")
    return " ".join(flags) or "as it is"


def _with(config: TrainConfig, num_devices: int, **fields: Any) -> TrainConfig | None:
    """The config with other values, or None where they cannot be."""
    try:
        changed = dataclasses.replace(config, **fields)
        mesh_sizes(changed, num_devices)
    except (ValueError, ConfigError):
        return None
    return changed
