"""Head mixing: each head's attention map becomes a mixture of its group's maps.

Multi-Token Attention, section 3.2 (https://arxiv.org/abs/2504.00927).
"""

import jax.numpy as jnp
from jax import lax

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
    """
    num_groups, group_size, _ = head_kernel.shape
    batch, _, query_length, key_length = logits.shape
    grouped = logits.reshape(batch, num_groups, group_size, query_length, key_length)
    mixed = jnp.einsum(
        "BMCTS,MCO->BMOTS",
        grouped,
        head_kernel.astype(logits.dtype),
        precision=lax.Precision.HIGHEST,
    )
    return mixed.reshape(logits.shape)
