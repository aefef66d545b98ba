"""Which query may use which key, and which rows a kernel may reach.

True means "may attend" everywhere in this package. Multi-token attention needs
its mask twice: as zeros before a convolution, so that a kernel never picks up a
forbidden logit, and as `MASK_VALUE` before the softmax. Drawn for one causal
sequence of four tokens, the second document starting at token 2::

            key 0 1 2 3
    query 0     1 . . .
    query 1     1 1 . .
    query 2     . . 1 .
    query 3     . . 1 1
"""

import jax.numpy as jnp
import numpy as np

from mta_jax.typing import Array, Bool, Int

# Finite, because -inf minus -inf is NaN in a row without any allowed key, and
# far enough below every logit that exp underflows to an exact zero.
MASK_VALUE = -0.7 * float(np.finfo(np.float32).max)


def attention_mask(
    query_length: int,
    key_length: int,
    *,
    is_causal: bool,
    query_offset: int | Int[Array, ""] = 0,
    mask: Bool[Array, "#B #N #T #S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
) -> Bool[Array, "#B #N T S"]:
    """Joins causality, packed documents and a given mask into one mask.

    Args:
      query_length: T.
      key_length: S.
      is_causal: query i sees the keys j <= i + query_offset only.
      query_offset: key position of the first query.
      mask: any further restriction, broadcastable to [B, N, T, S].
      segment_ids: document of each query; queries see keys of their own
        document only.
      key_segment_ids: document of each key; default: `segment_ids`.

    Returns:
      The mask, with size-1 batch and head axes where nothing depends on them.

    Example:
      >>> mask = attention_mask(4, 4, is_causal=True, segment_ids=jnp.array([[0, 0, 1, 1]]))
      >>> mask.shape
      (1, 1, 4, 4)
      >>> mask[0, 0].astype(int).tolist()
      [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    """
    allowed = jnp.ones((1, 1, query_length, key_length), bool)
    if is_causal:
        query_positions = jnp.arange(query_length)[:, None] + query_offset
        allowed = allowed & (jnp.arange(key_length)[None, :] <= query_positions)
    if segment_ids is not None:
        key_segment_ids = segment_ids if key_segment_ids is None else key_segment_ids
        same_segment = segment_ids[:, :, None] == key_segment_ids[:, None, :]
        allowed = allowed & same_segment[:, None]
    if mask is not None:
        allowed = allowed & mask
    return allowed


def row_tap_mask(segment_ids: Int[Array, "B T"], query_kernel_size: int) -> Bool[Array, "B Cq T"]:
    """Which rows each tap of a key-query kernel may read.

    Tap a of row i reads row ``i - (Cq - 1) + a``. That row may hold legal logits
    of another document, which the attention mask alone would let through, so a
    tap counts only where both rows belong to one document.

    Args:
      segment_ids: document of each query row.
      query_kernel_size: Cq.

    Returns:
      ``[b, a, i]`` is true where tap a of row i stays inside the document of i.

    Example:
      >>> row_tap_mask(jnp.array([[0, 0, 1, 1]]), 2)[0].astype(int).tolist()
      [[0, 1, 0, 1], [1, 1, 1, 1]]
    """
    length = segment_ids.shape[1]
    rows = jnp.arange(length)
    shifts = jnp.arange(query_kernel_size)[:, None] - (query_kernel_size - 1)
    source = rows[None, :] + shifts  # [Cq, T]
    source_segments = segment_ids[:, jnp.clip(source, 0)]  # [B, Cq, T]
    return (source >= 0) & (source_segments == segment_ids[:, None, :])
