"""Ordinary attention by cuDNN, through `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.requirements import (
    require_causal_self_attention,
    require_no,
    require_no_mixing,
    require_output_only,
)
from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, Float

_LARGEST_HEAD = 128


def cudnn(args: Arguments) -> tuple[Float[Array, "B T N Hv"], None]:
    """Causal attention without any mixing step, on NVIDIA GPUs from Ampere on.

    Packed documents would need a mask of the size of the map, so they are refused.

    Raises:
      NotImplementedError: for anything else, naming the limit.
    """
    if target_platform() != "gpu":
        raise NotImplementedError(
            f"there is no cuDNN on a {target_platform()}; 'xla_chunked' runs anywhere"
        )
    require_no_mixing(args)
    require_output_only(args)
    require_causal_self_attention(args)
    require_no(args, "segment_ids")
    dtypes = {x.dtype for x in (args.query, args.key, args.value)}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise NotImplementedError(f"dtype {names}: bfloat16 alone or float16 alone")
    head_size, value_size = args.query.shape[3], args.value.shape[3]
    if head_size % 8 or head_size > _LARGEST_HEAD or value_size != head_size:
        raise NotImplementedError(
            f"head size {head_size}, of values {value_size}: equal multiples of 8 up to "
            f"{_LARGEST_HEAD}"
        )
    scale = args.logit_scale
    if not isinstance(scale, int | float):
        raise NotImplementedError("a scale that is computed; 'xla_chunked' takes it")
    try:
        out = jax.nn.dot_product_attention(
            args.query,
            args.key,
            args.value,
            scale=float(scale),
            is_causal=True,
            implementation="cudnn",
        )
    except RuntimeError as error:
        # JAX finds no library, an old one or another kind of GPU.
        raise NotImplementedError(str(error)) from error
    return out.astype(args.output_dtype), None
