"""What the tests of the three families of fused TPU kernels share."""

import jax
import jax.numpy as jnp
import numpy as np

from mta_jax.ops.multi_token_attention import multi_token_attention
from tests.ops.attention_cases import Arrays
from tests.ops.attention_suite import AttentionSuite


class PallasTpuSuite(AttentionSuite):
    implementation = "pallas_tpu"
    supports_bidirectional = False
    supports_dropout = False
    supports_mask = False
    supports_varying_axes = False
    supports_weights = False


def assert_a_scale_may_be_traced(arrays: Arrays, *, rtol: float) -> None:
    """Output and gradient for the scale are those of the reference."""

    def attend(scale, implementation):
        given = jax.tree.map(jnp.asarray, arrays)
        return multi_token_attention(**given, scale=scale, implementation=implementation)

    run = jax.jit(jax.value_and_grad(lambda *a: attend(*a).sum()), static_argnums=1)
    got, expected = run(0.3, "pallas_tpu"), run(0.3, "reference")
    np.testing.assert_allclose(got, expected, rtol=rtol)
