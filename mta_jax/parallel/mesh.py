"""Devices as a mesh with four named axes."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "context", "tensor")
"""From the outermost to the innermost. Rows of queries are split over context and then tensor:
`lax.ppermute` over several axes counts devices in the order of the mesh."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices share out the work. The product is the number of devices.

    A run may be continued with other values here.
    """

    data: int = 1
    """Copies of the model, each with its part of the batch. Over several TPU slices, a multiple
    of their number spares the network between them."""

    fsdp: int | None = None
    """Parts of the batch as well, but with parameters and optimiser split between them too;
    null: the devices that the other axes leave."""

    tensor: int = 1
    """Parts of heads, feed-forward blocks and vocabulary; where heads are mixed, of the query
    rows instead."""

    context: int = 1
    """Parts of each row of tokens."""

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if size is not None and size < 1:
                raise ValueError(f"mesh.{axis} {size}: must be at least 1")

    def sizes(self, num_devices: int) -> tuple[int, int, int, int]:
        """Devices along each of `AXES`.

        Raises:
          ValueError: where they do not multiply to the number of devices.

        Example:
          >>> MeshConfig(tensor=4).sizes(256)  # data, fsdp, context, tensor
          (1, 64, 1, 4)
        """
        others = self.data * self.tensor * self.context
        if self.fsdp is None:
            if num_devices % others:
                raise ValueError(
                    f"mesh.data {self.data} x mesh.tensor {self.tensor} x mesh.context "
                    f"{self.context}: must divide the {num_devices} devices there are, and "
                    f"{others} does not; {_that_divide(num_devices)} would"
                )
            return self.data, num_devices // others, self.context, self.tensor
        sizes = (self.data, self.fsdp, self.context, self.tensor)
        if math.prod(sizes) != num_devices:
            asked = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
            fits = f"mesh.fsdp {num_devices // others} or null"
            if num_devices % others:
                fits = f"a product of {num_devices}, such as mesh.fsdp {num_devices} alone,"
            raise ValueError(
                f"mesh {asked} is {math.prod(sizes)} devices, and there are {num_devices}: {fits} "
                "would fit"
            )
        return sizes


def _that_divide(number: int) -> str:
    return ", ".join(str(size) for size in range(1, number + 1) if number % size == 0)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over some devices; default: all there are.

    Neighbours in the mesh are neighbours in the machine, as far as JAX knows it. Over
    several TPU slices, the axis with the least to send is the one between them: `data`
    where it is a multiple of their number, else `fsdp`.

    Raises:
      ValueError: where sizes and devices do not fit.
    """
    devices = jax.devices() if devices is None else devices
    sizes = config.sizes(len(devices))
    types = (AxisType.Auto,) * len(AXES)
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices == 1:
        # An axis of the mesh may be a part of an axis of the machine, as 2 of 4 x 4 x 4.
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=types)
    between = next((axis for axis in (0, 1) if sizes[axis] % num_slices == 0), None)
    if between is None:
        raise ValueError(
            f"mesh.data {sizes[0]}, mesh.fsdp {sizes[1]}: one of them must be a multiple of the "
            f"{num_slices} TPU slices"
        )
    across = [num_slices if axis == between else 1 for axis in range(len(AXES))]
    within = [size // outer for size, outer in zip(sizes, across, strict=True)]
    grid = mesh_utils.create_hybrid_device_mesh(
        within, across, devices=devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=types)


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
    """Has everything inside computed on a mesh. One of a single device changes nothing."""
    if mesh.size == 1:
        yield
        return
    with jax.set_mesh(mesh):
        yield


def axis_sizes() -> dict[str, int]:
    """Devices along each of `AXES`; empty outside `on`, and in programs of one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if not set(AXES) <= set(mesh.axis_names):
        return {}
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        return {}
    return {axis: mesh.shape[axis] for axis in AXES}
