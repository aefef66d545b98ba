"""Key-query convolution: a small 2-D kernel per head over the attention map.

Multi-Token Attention, section 3.1 (https://arxiv.org/abs/2504.00927).
"""

import jax.numpy as jnp
from jax import lax

from mta_jax.ops import masks
from mta_jax.typing import Array, Float, Int, KeyPadding


def key_padding_widths(key_kernel_size: int, key_padding: KeyPadding) -> tuple[int, int]:
    """Zeros added before and after the key axis, so that its length stays.

    Raises:
      ValueError: for an even `key_kernel_size` with padding "both", which has no
        centre tap, or an unknown `key_padding`.
    """
    if key_padding == "both":
        if key_kernel_size % 2 == 0:
            raise ValueError(
                f"key kernel size {key_kernel_size} with key_padding 'both': the size must be "
                "odd, or key_padding 'left' or 'right'"
            )
        return key_kernel_size // 2, key_kernel_size // 2
    if key_padding == "left":
        return key_kernel_size - 1, 0
    if key_padding == "right":
        return 0, key_kernel_size - 1
    raise ValueError(f"key_padding {key_padding!r}: must be 'both', 'left' or 'right'")


def key_query_convolution(
    logits: Float[Array, "B N T S"],
    kq_kernel: Float[Array, "N Cq Ck"],
    *,
    key_padding: KeyPadding = "both",
    segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B N T S"]:
    """Convolves an attention map with one 2-D kernel per head.

    Computes, with zeros outside the map (cross-correlation)::

        out[n, i, j] = sum_{a, b} kq_kernel[n, a, b]
                       * logits[n, i - (Cq - 1) + a, j - before + b]

    where ``before`` is the padding in front of the key axis. Rows reach into the
    past only. With padding "both" the tap ``[n, Cq - 1, Ck // 2]`` sits on the
    query and key themselves.

    Args:
      logits: the map, zero wherever a query may not attend (the caller masks).
      kq_kernel: one kernel per query head.
      key_padding: "both" reaches keys on both sides, "left" earlier keys only,
        "right" later keys only (which the causal mask has zeroed).
      segment_ids: document of each row; a row then never reads rows of another
        document.

    Returns:
      The convolved map, same shape and dtype.

    Raises:
      ValueError: for an even Ck with padding "both".
    """
    num_heads, query_kernel_size, key_kernel_size = kq_kernel.shape
    before, after = key_padding_widths(key_kernel_size, key_padding)

    def convolve(x: Array, kernel: Array, past_rows: int) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel[:, None].astype(x.dtype),  # [N, 1, taps, Ck]
            window_strides=(1, 1),
            padding=((past_rows, 0), (before, after)),
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
            feature_group_count=num_heads,
            precision=lax.Precision.HIGHEST,
        )

    if segment_ids is None or query_kernel_size == 1:
        return convolve(logits, kq_kernel, query_kernel_size - 1)

    # Each row tap has its own rule about documents, so each is convolved along
    # keys on its own, shifted into place and masked: the same arithmetic in all.
    valid = masks.row_tap_mask(segment_ids, query_kernel_size)  # [B, Cq, T]
    length = logits.shape[2]
    total = jnp.zeros_like(logits)
    for tap in range(query_kernel_size):
        shift = query_kernel_size - 1 - tap
        along_keys = convolve(logits, kq_kernel[:, tap : tap + 1], 0)
        shifted = jnp.pad(along_keys, ((0, 0), (0, 0), (shift, 0), (0, 0)))[:, :, :length]
        total = total + jnp.where(valid[:, None, tap, :, None], shifted, 0)
    return total
