"""Plain XLA implementation: materialised logits and `lax.conv_general_dilated`.

Works on every backend and supports every option. Memory is O(B N T S).
"""

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.ops.dropout import dropout
from mta_jax.ops.head_mixing import head_mixing
from mta_jax.ops.key_query_convolution import key_query_convolution
from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.typing import Array, Float


def xla(args: Arguments) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N T S"]]:
    """Multi-token attention over the whole logit tensor.

    Matrix products read the input dtype and accumulate in float32; logits,
    convolutions, mixing and softmax are float32 (float64 for float64 inputs).

    Returns:
      The output and the attention weights before dropout.
    """
    batch, query_length, num_heads, head_size = args.query.shape
    key_length, num_kv_heads = args.key.shape[1:3]
    accumulate = jnp.promote_types(args.query.dtype, jnp.float32)
    # Float32 operands stay float32 on TPU, where the default would round them.
    precision = lax.Precision.HIGHEST if args.query.dtype == accumulate else None
    mask = args.allowed()

    grouped = args.query.reshape(batch, query_length, num_kv_heads, -1, head_size)
    logits = args.logit_scale * jnp.einsum(
        "BTKGH,BSKH->BKGTS",
        grouped,
        args.key,
        precision=precision,
        preferred_element_type=accumulate,
    )
    logits = logits.reshape(batch, num_heads, query_length, key_length)
    if args.pre_kq_kernel is not None or args.pre_head_kernel is not None:
        logits = jnp.where(mask, logits, 0)
    if args.pre_kq_kernel is not None:
        logits = key_query_convolution(
            logits,
            args.pre_kq_kernel,
            key_padding=args.key_padding,
            segment_ids=args.segment_ids,
        )
    if args.pre_head_kernel is not None:
        logits = head_mixing(logits, args.pre_head_kernel)

    # The second `where` is for rows without any allowed key, which give zeros.
    probs = jax.nn.softmax(jnp.where(mask, logits, MASK_VALUE), axis=-1)
    probs = jnp.where(mask, probs, 0)
    if args.post_kq_kernel is not None:
        probs = key_query_convolution(
            probs,
            args.post_kq_kernel,
            key_padding=args.key_padding,
            segment_ids=args.segment_ids,
        )
        probs = jnp.where(mask, probs, 0)
    if args.post_head_kernel is not None:
        probs = head_mixing(probs, args.post_head_kernel)

    weights = probs
    if args.dropout_key is not None:
        weights = dropout(probs, args.dropout_rate, args.dropout_key)
    out = jnp.einsum(
        "BKGTS,BSKH->BTKGH",
        weights.reshape(batch, num_kv_heads, -1, query_length, key_length).astype(args.value.dtype),
        args.value,
        precision=precision,
        preferred_element_type=accumulate,
    )
    out = out.reshape(batch, query_length, num_heads, args.value.shape[-1])
    return out.astype(args.output_dtype), probs
