import math

import pytest

from mta_jax.parallel.mesh import MeshConfig, axis_sizes, make_mesh, on


@pytest.mark.parametrize(
    ("fields", "num_devices", "sizes"),
    [
        ({}, 1, (1, 1, 1, 1)),
        ({}, 8, (1, 8, 1, 1)),
        ({"data": 2, "tensor": 2}, 8, (2, 2, 1, 2)),
        ({"fsdp": 2, "context": 4}, 8, (1, 2, 4, 1)),
    ],
)
def test_sizes_multiply_to_the_number_of_devices(fields, num_devices, sizes):
    assert MeshConfig(**fields).sizes(num_devices) == sizes
    assert math.prod(sizes) == num_devices


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data": 3},
            "mesh.data 3 x mesh.tensor 1 x mesh.context 1: must divide the 8 devices there are, "
            "and 3 does not; 1, 2, 4, 8 would",
        ),
        (
            {"data": 4, "tensor": 4},
            "mesh.data 4 x mesh.tensor 4 x mesh.context 1: must divide the 8 devices there are, "
            "and 16 does not; 1, 2, 4, 8 would",
        ),
        (
            {"fsdp": 2, "tensor": 2},
            "mesh data 1 x fsdp 2 x context 1 x tensor 2 is 4 devices, and there are 8: "
            "mesh.fsdp 4 or null would fit",
        ),
        (
            {"fsdp": 2, "tensor": 3},
            "mesh data 1 x fsdp 2 x context 1 x tensor 3 is 6 devices, and there are 8: "
            "a product of 8, such as mesh.fsdp 8 alone, would fit",
        ),
    ],
)
def test_sizes_that_do_not_fit_the_devices_say_what_would(fields, message):
    with pytest.raises(ValueError, match=r"^mesh") as caught:
        MeshConfig(**fields).sizes(8)
    assert str(caught.value) == message


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor", "context"])
def test_a_size_below_one_is_refused(axis):
    with pytest.raises(ValueError, match=f"mesh.{axis} 0: must be at least 1"):
        MeshConfig(**{axis: 0})


def test_a_mesh_of_one_device_changes_nothing():
    mesh = make_mesh(MeshConfig())
    assert mesh.size == 1
    with on(mesh):
        assert axis_sizes() == {}
