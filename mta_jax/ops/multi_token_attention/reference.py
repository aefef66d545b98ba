"""The definition of multi-token attention, written to be read.

Every other implementation is compared with this one. It is never optimised.
"""

import jax.numpy as jnp

from mta_jax.ops.dropout import dropout
from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.typing import Array, Bool, Float


def reference(args: Arguments) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T S"]]:
    """Multi-token attention in float32 (float64 for float64 inputs), step by step.

    Returns:
      The output and the attention weights before dropout.
    """
    dtype = jnp.promote_types(args.query.dtype, jnp.float32)
    groups = args.query.shape[2] // args.key.shape[2]
    q = args.query.astype(dtype)
    k = jnp.repeat(args.key.astype(dtype), groups, axis=2)
    v = jnp.repeat(args.value.astype(dtype), groups, axis=2)
    mask = args.allowed()

    logits = args.logit_scale * jnp.einsum("BTNH,BSNH->BNTS", q, k, precision="highest")
    if args.pre_kq_kernel is not None or args.pre_head_kernel is not None:
        logits = jnp.where(mask, logits, 0)
    if args.pre_kq_kernel is not None:
        logits = _convolve(logits, args.pre_kq_kernel.astype(dtype), args)
    if args.pre_head_kernel is not None:
        logits = _mix_heads(logits, args.pre_head_kernel.astype(dtype))

    probs = _masked_softmax(logits, mask)
    if args.post_kq_kernel is not None:
        probs = _convolve(probs, args.post_kq_kernel.astype(dtype), args)
        probs = jnp.where(mask, probs, 0)
    if args.post_head_kernel is not None:
        probs = _mix_heads(probs, args.post_head_kernel.astype(dtype))

    weights = probs
    if args.dropout_key is not None:
        weights = dropout(probs, args.dropout_rate, args.dropout_key)
    out = jnp.einsum("BNTS,BSNH->BTNH", weights, v, precision="highest")
    return out.astype(args.output_dtype), probs


def _convolve(x: Float[Array, "B N T S"], kernel: Array, args: Arguments) -> Array:
    """sum_{a,b} kernel[n, a, b] * x[n, i - (Cq - 1) + a, j - before + b]."""
    _, query_kernel_size, key_kernel_size = kernel.shape
    before, after = key_padding_widths(key_kernel_size, args.key_padding)
    query_length, key_length = x.shape[2:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (query_kernel_size - 1, 0), (before, after)))
    total = jnp.zeros_like(x)
    for a in range(query_kernel_size):
        in_segment = _same_segment(args, query_kernel_size - 1 - a)
        for b in range(key_kernel_size):
            shifted = padded[:, :, a : a + query_length, b : b + key_length]
            total += jnp.where(in_segment, kernel[:, a, b][:, None, None] * shifted, 0)
    return total


def _same_segment(args: Arguments, rows_back: int) -> Bool[Array, "#B 1 #T 1"]:
    """Whether row i and row i - rows_back belong to one document."""
    if args.segment_ids is None:
        return jnp.ones((1, 1, 1, 1), bool)
    row = jnp.arange(args.segment_ids.shape[1])
    earlier = jnp.maximum(row - rows_back, 0)
    same = args.segment_ids[:, earlier] == args.segment_ids
    return same[:, None, :, None]


def _mix_heads(x: Float[Array, "B N T S"], kernel: Float[Array, "M Ch Ch"]) -> Array:
    """out[o] = sum_n kernel[n, o] * x[n] inside each group of Ch heads."""
    size = kernel.shape[1]
    mixed = [
        jnp.einsum("BNTS,NO->BOTS", x[:, g * size : (g + 1) * size], matrix, precision="highest")
        for g, matrix in enumerate(kernel)
    ]
    return jnp.concatenate(mixed, axis=1)


def _masked_softmax(logits: Float[Array, "B N T S"], mask: Bool[Array, "#B #N T S"]) -> Array:
    """Softmax over allowed keys; a row without any gives zeros."""
    masked = jnp.where(mask, logits, MASK_VALUE)
    unnormalized = jnp.exp(masked - jnp.max(masked, axis=-1, keepdims=True))
    probs = unnormalized / jnp.sum(unnormalized, axis=-1, keepdims=True)
    return jnp.where(mask, probs, 0)
