"""Fused implementation for TPU: linear memory, no logits in main memory.

Runs on other backends in interpret mode, which is for tests: it is slow.
"""

from typing import Any

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu import four_steps
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads import Tiles, attend_all_heads
from mta_jax.ops.multi_token_attention.pallas_tpu.memory import vmem_limit
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head import BlockSizes, attend_one_head
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import has_offset
from mta_jax.ops.multi_token_attention.requirements import (
    require_causal_attention,
    require_no_varying_axes,
    require_output_only,
)
from mta_jax.ops.target import target_kind, target_platform
from mta_jax.typing import Array, Float


def pallas_tpu(
    args: Arguments,
    *,
    blocks: BlockSizes | None = None,
    tiles: Tiles | None = None,
    interpret: Any = None,
) -> tuple[Float[Array, "B T N Hv"], None]:
    """Multi-token attention by the kernels that serve a call best.

    Args:
      args: causal attention with any of the four mixing steps, whole or packed.
      blocks: the largest tiles of the kernels that hold one head.
      tiles: the largest tiles of the kernels that hold all heads of a mixing group.
      interpret: whether kernels are interpreted, or how; default: where there is no TPU.

    Returns:
      The output; attention weights are never formed.

    Raises:
      NotImplementedError: for anything else, naming the limit.
    """
    _refuse_what_is_missing(args)
    if interpret is None:
        interpret = target_platform() != "tpu"
    if interpret:
        # Tiles are unrolled in the program, and a CPU takes minutes to compile large ones.
        blocks = blocks or BlockSizes(block=128)
        tiles = tiles or Tiles(query_block=128, key_block=128)
    options = {
        "memory_limit": 56 * 2**20 if interpret else vmem_limit(target_kind()),
        "interpret": interpret,
    }
    if args.pre_kq_kernel is None and args.post_kq_kernel is None:
        return attend_all_heads(args, tiles=tiles or Tiles(), **options), None
    is_logits_alone = args.pre_head_kernel is None and args.post_kq_kernel is None
    if is_logits_alone and not has_offset(args):
        return attend_one_head(args, sizes=blocks or BlockSizes(), **options), None
    plan = four_steps.plan_of(args, windows=four_steps.MOST_WINDOWS, **options)
    return four_steps.attend_in_four_steps(args, plan), None


def _refuse_what_is_missing(args: Arguments) -> None:
    kernels = (
        args.pre_kq_kernel,
        args.pre_head_kernel,
        args.post_kq_kernel,
        args.post_head_kernel,
    )
    if all(kernel is None for kernel in kernels):
        raise NotImplementedError(
            "without any kernel: 'splash' and 'xla_chunked' are for ordinary attention"
        )
    require_output_only(args)
    require_causal_attention(args)
    require_no_varying_axes(args)
    dtype = jnp.result_type(args.query, args.key, args.value)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(
            f"dtype {dtype}: only float32 and bfloat16; 'xla_chunked' takes any"
        )
