"""A convolution along keys as a product with a banded matrix, for processors built for products.

All keys of a window, times a matrix whose diagonals hold the taps, are the window's outputs.
Nine tenths of the matrix are zeros, and yet this is by far the shorter program: one product,
where a sum of shifted maps has as many terms as the kernel has taps. TPU's compiler takes
minutes for those, and for one product per row of taps five times as long as for one.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from mta_jax.typing import Array, Float

# Keys per window: the side of a TPU's matrix unit.
_WINDOW = 128


def banded_product(
    rows: Sequence[Float[Array, "N R Sin"]], kq_kernel: Float[Array, "N Cq Ck"]
) -> Float[Array, "N R Sout"]:
    """The sum of Cq maps, each convolved along its keys with its own row of taps.

    Args:
      rows: for each row of taps what it reads, with its padding: Sout = Sin - Ck + 1.
      kq_kernel: one kernel per head.
    """
    num_heads, num_rows, num_in = rows[0].shape
    key_size = kq_kernel.shape[2]
    num_out = num_in - key_size + 1
    num_windows = -(-num_out // _WINDOW)
    # Behind a window its outputs reach the first keys of the next.
    num_tails = -(-(key_size - 1) // _WINDOW)
    behind = (num_windows + num_tails) * _WINDOW - num_in
    reach = _WINDOW + key_size - 1

    def windows(x: Array) -> Array:
        blocks = jnp.pad(x, ((0, 0), (0, 0), (0, behind)))
        blocks = blocks.reshape(num_heads, num_rows, -1, _WINDOW)
        pieces = [blocks[:, :, i : i + num_windows] for i in range(num_tails + 1)]
        return jnp.concatenate(pieces, axis=-1)[..., :reach]

    distance = np.arange(reach)[:, None] - np.arange(_WINDOW)
    at_tap = (distance == np.arange(key_size)[:, None, None]).astype(kq_kernel.dtype)
    # Each entry is one tap, so this is exact.
    bands = jnp.einsum("NQK,KIO->NQIO", kq_kernel, at_tap, precision=lax.Precision.HIGHEST)
    out = jnp.einsum(
        "NRXI,NIO->NRXO",
        jnp.concatenate([windows(x) for x in rows], axis=-1),
        bands.reshape(num_heads, -1, _WINDOW),
        precision=lax.Precision.HIGHEST,
    )
    return out.reshape(num_heads, num_rows, -1)[..., :num_out]
