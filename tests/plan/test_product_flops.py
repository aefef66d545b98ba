import jax
import jax.numpy as jnp
import pytest
from jax import lax

from mta_jax.plan.instruction_costs import instruction_costs
from mta_jax.plan.instructions import instructions_of
from mta_jax.plan.product_flops import product_flops


def flops_of(lhs, rhs, out, attributes, opcode="convolution"):
    lines = [
        f"  %a = bf16[{lhs}]{{0}} parameter(0)",
        f"  %b = bf16[{rhs}]{{0}} parameter(1)",
        f"  ROOT %c = bf16[{out}]{{0}} {opcode}(%a, %b), {attributes}",
    ]
    found = instructions_of(lines)
    return product_flops(found["c"], lambda name: found[name].results[0])


def test_a_product():
    attributes = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}"
    assert flops_of("3,4,5", "3,5,6", "3,4,6", attributes, "dot") == 2 * 3 * 4 * 5 * 6
    assert flops_of("4,5", "5,6", "4,6", "dim_labels=bf_io->bf") == 2 * 4 * 5 * 6


def test_a_product_that_is_written_as_a_convolution():
    # As TPU's compiler writes the projection of [4, 2048, 1536] to 16 heads of 96: a window of
    # 16 over one element, whose other taps read padding.
    attributes = "window={size=1x16 pad=0_0x15_15 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f"
    flops = flops_of("4,2048,1536,1", "1536,16,96,1", "4,2048,16,96", attributes)
    assert flops == 2 * 4 * 2048 * 1536 * 16 * 96


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "VALID"},
        {"padding": "SAME"},
        {"padding": [(5, 0), (1, 7)], "window_strides": (2, 3)},
        {"padding": [(2, 2), (3, 3)], "lhs_dilation": (2, 1)},
        {"padding": [(0, 4), (4, 0)], "rhs_dilation": (1, 3)},
        {"padding": "SAME", "feature_group_count": 2},
        {"padding": "SAME", "batch_group_count": 2},
    ],
)
def test_convolutions_count_as_xla_counts_them(settings):
    groups = settings.get("feature_group_count", 1)
    lhs, rhs = jnp.ones((4, 6, 9, 11)), jnp.ones((10, 6 // groups, 3, 4))
    window = {"window_strides": (1, 1), **settings}

    def convolve(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, **window)

    compiled = jax.jit(convolve).lower(lhs, rhs).compile()
    found = sum(cost.flops for cost in instruction_costs(compiled.as_text()))
    assert found == compiled.cost_analysis()["flops"]
