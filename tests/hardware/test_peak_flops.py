import pytest

from mta_jax.hardware.peak_flops import peak_flops
from mta_jax.hardware.topologies import TOPOLOGIES


@pytest.mark.parametrize(("name", "units"), [("v5e", 4), ("v5p", 8), ("v6e", 16)])
def test_peak_of_a_tpu_is_its_clock_times_its_products(name, units):
    topology = TOPOLOGIES[name]
    products = units * 128 * 128
    assert peak_flops(topology.device_kind) == pytest.approx(
        2 * products * topology.clock, rel=0.03
    )


def test_names_are_those_of_jax():
    assert peak_flops("TPU v4") == 275e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.5e12


@pytest.mark.parametrize(
    "kind", ["cpu", "", "TPU v9", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "tpu v4"]
)
def test_an_unknown_device_has_no_peak(kind):
    assert peak_flops(kind) is None
