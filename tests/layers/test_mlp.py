import jax
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import SwiGLU
from mta_jax.layers.mlp import default_mlp_dim
from tests.layers.tools import drawn, normal, value


@pytest.mark.parametrize(
    ("embed_dim", "mlp_dim"),
    [(64, 256), (256, 768), (1024, 2816), (1280, 3584), (1536, 4096), (2048, 5632)],
)
def test_default_width_is_two_thirds_of_four_rounded_up_to_256(embed_dim, mlp_dim):
    assert default_mlp_dim(embed_dim) == mlp_dim


def test_block_is_its_formula():
    block = drawn(lambda: SwiGLU(6, 10, rngs=nnx.Rngs(0)))
    x = np.asarray(normal(2, 3, 6), np.float64)
    gate = x @ value(block.gate_proj.kernel)
    expected = gate / (1 + np.exp(-gate)) * (x @ value(block.up_proj.kernel))
    expected = expected @ value(block.down_proj.kernel)
    out = jax.jit(lambda block: block(normal(2, 3, 6)))(block)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert block.gate_proj.bias is block.up_proj.bias is block.down_proj.bias is None
