"""Head mixing: each head's attention map becomes a mixture of its group's maps.

Multi-Token Attention, section 3.2 (https://arxiv.org/abs/2504.00927).
"""

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.ops.manual_axes import vary_alike
from mta_jax.typing import Array, Float


def head_mixing(
    logits: Float[Array, "B N T S"], head_kernel: Float[Array, "M Ch Ch"]
) -> Float[Array, "B N T S"]:
    """Mixes attention maps inside groups of Ch consecutive heads.

    Computes ``out[g * Ch + o] = sum_c head_kernel[g, c, o] * logits[g * Ch + c]``:
    the kernel is indexed (in, out), like a Dense weight.

    Args:
      logits: attention maps, before or after the softmax.
      head_kernel: one square matrix per group; M * Ch must equal N.

    Returns:
      The mixed maps, same shape and dtype.

    Raises:
      ValueError: where the groups are not those of the map's heads.

    Example:
      >>> maps = jnp.stack([jnp.ones((1, 2, 2)), jnp.zeros((1, 2, 2))], axis=1)  # two heads
      >>> swap = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])  # one group of both
      >>> head_mixing(maps, swap)[0, :, 0, 0].tolist()
      [0.0, 1.0]
    """
    if head_kernel.ndim != 3 or head_kernel.shape[0] * head_kernel.shape[1] != logits.shape[1]:
        raise ValueError(
            f"head_kernel has shape {head_kernel.shape}: expected [groups, size, size] with "
            f"groups * size = {logits.shape[1]} heads of the map {logits.shape}"
        )
    logits, head_kernel = vary_alike((logits, head_kernel))
    num_groups, group_size, _ = head_kernel.shape
    batch, _, query_length, key_length = logits.shape
    grouped = logits.reshape(batch, num_groups, group_size, query_length, key_length)
    return _mix(grouped, head_kernel.astype(logits.dtype)).reshape(logits.shape)


@jax.custom_vjp
def _mix(
    x: Float[Array, "B M Ch T S"], kernel: Float[Array, "M Ch Ch"]
) -> Float[Array, "B M Ch T S"]:
    return jnp.einsum("BMCTS,MCO->BMOTS", x, kernel, precision=lax.Precision.HIGHEST)


def _mix_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mix(x, kernel), (x, kernel)


def _mix_backward(residuals: tuple[Array, Array], dout: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = jnp.einsum("BMOTS,MCO->BMCTS", dout, kernel, precision=lax.Precision.HIGHEST)
    # One product over all of B, T and S adds millions of terms in a row, and its
    # error grows with them: sum over the keys first, then over the rows.
    by_row = jnp.einsum("BMCTS,BMOTS->BTMCO", x, dout, precision=lax.Precision.HIGHEST)
    return dx, jnp.sum(by_row, axis=(0, 1))


_mix.defvjp(_mix_forward, _mix_backward)
