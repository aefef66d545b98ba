"""Key-query convolution: a small 2-D kernel per head over the attention map.

Multi-Token Attention, section 3.1 (https://arxiv.org/abs/2504.00927).
"""

import jax.numpy as jnp
import numpy as np
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
      ValueError: for an even Ck with padding "both", or kernels of other heads than
        the map has.

    Example:
      >>> logits = jnp.zeros((1, 1, 4, 4)).at[0, 0, 1, 1].set(1.0)
      >>> kernel = jnp.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])  # 2 queries x 3 keys
      >>> key_query_convolution(logits, kernel)[0, 0].astype(int).tolist()
      [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    """
    if kq_kernel.ndim != 3 or kq_kernel.shape[0] != logits.shape[1]:
        raise ValueError(
            f"kq_kernel has shape {kq_kernel.shape}: expected [{logits.shape[1]}, Cq, Ck], one "
            f"kernel per head of the map {logits.shape}"
        )
    _, query_kernel_size, key_kernel_size = kq_kernel.shape
    padding = key_padding_widths(key_kernel_size, key_padding)
    if segment_ids is None or query_kernel_size == 1:
        return _convolve(logits, kq_kernel, padding)

    # Each row tap has its own rule about documents, so each is convolved along
    # keys on its own, shifted into place and masked: the same arithmetic in all.
    valid = masks.row_tap_mask(segment_ids, query_kernel_size)  # [B, Cq, T]
    length = logits.shape[2]
    total = jnp.zeros_like(logits)
    for tap in range(query_kernel_size):
        shift = query_kernel_size - 1 - tap
        along_keys = _convolve(logits, kq_kernel[:, tap : tap + 1], padding)
        shifted = jnp.pad(along_keys, ((0, 0), (0, 0), (shift, 0), (0, 0)))[:, :, :length]
        total = total + jnp.where(valid[:, None, tap, :, None], shifted, 0)
    return total


def _convolve(
    logits: Float[Array, "B N T S"],
    kq_kernel: Float[Array, "N Cq Ck"],
    key_padding: tuple[int, int],
) -> Float[Array, "B N T S"]:
    """The convolution, with runs of neighbouring keys as channels.

    A map has one channel per head, and convolutions of single channels are what
    XLA is worst at: on a CPU they take ten times as long, forward and backward, as
    the same convolution with `block` neighbouring keys as input and output
    channels, which is matrix products. (One grouped convolution over all heads is
    slower still.)
    """
    num_heads, query_kernel_size, _ = kq_kernel.shape
    key_length = logits.shape[3]
    block = 8 if key_length <= 128 else 32
    kernel, key_blocks = _block_kernel(kq_kernel.astype(logits.dtype), block, key_padding)
    num_blocks = -(-key_length // block)
    widths = ((0, 0), (0, 0), (0, 0), (0, num_blocks * block - key_length))
    blocked = jnp.pad(logits, widths).reshape(*logits.shape[:3], num_blocks, block)
    convolved = [
        lax.conv_general_dilated(
            blocked[:, head],
            kernel[head],
            window_strides=(1, 1),
            padding=((query_kernel_size - 1, 0), key_blocks),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        for head in range(num_heads)
    ]
    return jnp.stack(convolved, axis=1).reshape(*logits.shape[:3], -1)[..., :key_length]


def _block_kernel(
    kq_kernel: Float[Array, "N Cq Ck"], block: int, key_padding: tuple[int, int]
) -> tuple[Float[Array, "N Cq blocks in out"], tuple[int, int]]:
    """A kernel over blocks of keys, and how many blocks it reaches back and ahead.

    Input key p of a block s blocks away meets output key o through the tap at
    distance ``s * block + p - o``, if the kernel is that long.
    """
    before, after = key_padding
    reach = (-(-before // block), -(-after // block))
    away = np.arange(-reach[0], reach[1] + 1)[:, None, None] * block
    distance = away + np.arange(block)[:, None] - np.arange(block)
    tap = np.arange(kq_kernel.shape[2])[:, None, None, None]
    place = (distance + before == tap).astype(kq_kernel.dtype)  # [Ck, blocks, in, out]
    kernel = jnp.einsum("NQK,KSIO->NQSIO", kq_kernel, place, precision=lax.Precision.HIGHEST)
    return kernel, reach
