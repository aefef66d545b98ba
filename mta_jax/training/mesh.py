"""The mesh of a run, and whether its model and batch can be split over it."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from mta_jax.errors import ConfigError
from mta_jax.models import ModelConfig
from mta_jax.parallel.mesh import AXES, make_mesh
from mta_jax.parallel.rules import RULES, num_parts
from mta_jax.training.config import TrainConfig


def mesh_of(config: TrainConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that a config asks for.

    Args:
      config: the run.
      devices: to make it of; default: all there are.

    Raises:
      ConfigError: where there are not as many devices, or something cannot be split evenly.
    """
    devices = jax.devices() if devices is None else devices
    mesh_sizes(config, len(devices))
    try:
        return make_mesh(config.mesh, devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def described(mesh: Mesh) -> str:
    """A line about a mesh: devices, processes, and what is split over them."""
    kinds = {device.device_kind for device in mesh.devices.flat}
    sizes = " x ".join(f"{size} {axis}" for axis, size in mesh.shape.items() if size > 1)
    line = f"{mesh.size} devices ({', '.join(sorted(kinds))}), {sizes or 'nothing split'}"
    num_processes = len({device.process_index for device in mesh.devices.flat})
    return line + (f", {num_processes} processes" if num_processes > 1 else "")


def mesh_sizes(config: TrainConfig, num_devices: int) -> dict[str, int]:
    """Devices along each axis of the mesh that a config asks for.

    Raises:
      ConfigError: where there are not as many devices, or an axis of the mesh does not
        divide what it splits: every device gets an equal part.
    """
    try:
        sizes = dict(zip(AXES, config.mesh.sizes(num_devices), strict=True))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    model, data = config.model, config.data
    splits = {
        "batch": ("the rows of a batch, data.batch_size / accumulate", config.held_out_rows),
        "embed": ("model.embed_dim", model.embed_dim),
        "heads": ("model.num_heads", model.num_heads),
        "mlp": ("model.mlp_dim", model.mlp_size),
        "length": ("the length of a row", data.row_length),
    }
    layers = range(model.num_layers)
    if any(_splits_queries(model, layer, sizes["tensor"]) for layer in layers):
        splits["query"] = splits["length"]
    for axis, (what, length) in splits.items():
        count = num_parts(axis, sizes)
        if length % count:
            asked = " x ".join(f"mesh.{name} {sizes[name]}" for name in RULES[axis])
            fits = math.gcd(length, num_devices)
            raise ConfigError(
                f"{asked}: must divide {what} {length}; {fits} would, with the other devices on "
                f"another axis, or a multiple of {count} there"
            )
    return sizes


def _splits_queries(model: ModelConfig, layer: int, tensor: int) -> bool:
    """Whether a layer cannot have its heads in parts (see `parallel.attention`)."""
    kind = model.attention_of(layer)
    together = 2 if kind == "diff" else 1
    if kind == "talking_heads":
        together = model.num_heads
    if kind == "mta":
        for size in (model.mta.pre_head_kernel_size, model.mta.post_head_kernel_size):
            together = math.lcm(together, model.num_heads if size == "all" else size or 1)
    kv_together = 2 if kind == "diff" else 1
    return bool(model.num_heads % (tensor * together) or model.kv_heads % (tensor * kv_together))
