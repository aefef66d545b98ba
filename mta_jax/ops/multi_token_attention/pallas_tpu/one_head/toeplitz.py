"""Key taps as banded matrices, so that convolving along keys is a matrix product."""

import jax.numpy as jnp
import numpy as np

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import KEY_HALO, WINDOW, Plan
from mta_jax.typing import Array, Float


def expansion_matrix(
    plan: Plan, kq_kernel: Float[Array, "N Cq Ck"]
) -> Float[Array, "N rows window"]:
    """Takes `WINDOW` keys to the expanded keys of the `LANES` keys in their middle.

    Row ``a * LANES + j`` holds tap a of key j: ``kq_kernel[n, a, b]`` in the column of
    key ``j - keys_before + b``.
    """
    row = np.arange(LANES)[:, None]
    column = np.arange(WINDOW) - KEY_HALO
    return _spread(kq_kernel, column - row + plan.keys_before)


def strip_matrix(plan: Plan, kq_kernel: Float[Array, "N Cq Ck"]) -> Float[Array, "N rows lanes"]:
    """Convolves `LANES` logits of a strip along keys, one matrix per query tap.

    Lanes are keys modulo `LANES`, so the matrices wrap around; a strip is so much
    narrower than its window that nothing meets from both sides.
    """
    source = np.arange(LANES)[:, None]
    output = np.arange(LANES)
    return _spread(kq_kernel, (source - output + plan.keys_before) % LANES)


def _spread(kq_kernel: Float[Array, "N Cq Ck"], tap: np.ndarray) -> Array:
    """Entry (r, c) of query tap a is ``kq_kernel[n, a, tap[r, c]]``, or zero; taps stacked."""
    place = tap == np.arange(kq_kernel.shape[2])[:, None, None]
    matrices = jnp.sum(jnp.where(place, kq_kernel.astype(jnp.float32)[..., None, None], 0), axis=2)
    return matrices.reshape(kq_kernel.shape[0], -1, tap.shape[1])
