"""Ordinary attention by cuDNN, through `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import dot_product_attention

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.requirements import (
    require_causal_self_attention,
    require_no,
    require_no_mixing,
    require_output_of_input_dtype,
    require_output_only,
)
from mta_jax.ops.target import target_compute_capability, target_platform
from mta_jax.typing import Array, Float

_LARGEST_HEAD = 128

_AMPERE = 8.0


def cudnn(args: Arguments) -> tuple[Float[Array, "B T N Hv"], None]:
    """Causal attention without any mixing step, on NVIDIA GPUs from Ampere on.

    Packed documents would need a mask of the size of the map, so they are refused. Under
    `jax.vmap`, JAX lets cuDNN have a batch axis of all three arrays, in front, or of none.

    Raises:
      NotImplementedError: for anything else, naming the limit.
    """
    if target_platform() != "gpu":
        raise NotImplementedError(
            f"there is no cuDNN on a {target_platform()}; 'xla_chunked' runs anywhere"
        )
    capability = target_compute_capability()
    if capability is not None and capability < _AMPERE:
        raise NotImplementedError(
            f"a GPU of compute capability {capability}: at least {_AMPERE}; 'xla_chunked' runs "
            "anywhere"
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
    require_output_of_input_dtype(args)
    scale = args.logit_scale
    if isinstance(scale, jax.Array):
        raise NotImplementedError("a scale that is an array; 'xla_chunked' takes it")
    try:
        out = dot_product_attention(
            args.query,
            args.key,
            args.value,
            scale=float(np.asarray(scale)),
            is_causal=True,
            implementation="cudnn",
        )
    except (RuntimeError, TypeError) as error:
        # JAX finds no library, or cannot batch what `vmap` asks for.
        raise NotImplementedError(str(error)) from error
    return out.astype(args.output_dtype), None
