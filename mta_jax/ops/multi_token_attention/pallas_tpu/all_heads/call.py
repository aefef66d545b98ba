"""From the arguments of a call to the kernels that hold all heads of a mixing group."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.attention import attention
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.block_sizes import Memory, Tiles, fit
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import round_up, tile_size
from mta_jax.ops.multi_token_attention.pallas_tpu.memory import vmem_request
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    group_fields,
    kv_heads_of,
    too_large,
    whole_kv_heads,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import refuse_long_tables
from mta_jax.typing import Array, Float


def attend_all_heads(
    args: Arguments, *, tiles: Tiles, memory_limit: int, interpret: Any
) -> Float[Array, "B T N Hv"]:
    """Multi-token attention of heads that are mixed, without any convolution.

    Args:
      args: causal attention of float32 or bfloat16; checked.
      tiles: the largest.
      memory_limit: bytes on the chip that a kernel may ask for.
      interpret: whether kernels are interpreted, or how.

    Raises:
      NotImplementedError: where the heads of a mixing group, or the order of the tiles, need
        more memory than there is.
    """
    plan = plan_of(args, tiles=tiles, memory_limit=memory_limit, interpret=interpret)
    query, pre_head_kernel, scale = args.query, args.pre_head_kernel, args.logit_scale
    if not isinstance(scale, int | float):
        if pre_head_kernel is None:
            query = query.astype(jnp.float32) * scale
        else:
            pre_head_kernel = pre_head_kernel.astype(jnp.float32) * scale
    key, value = whole_kv_heads(plan.group, plan.num_heads, args.key, args.value)

    def prepare(x: Array, length: int) -> Array:
        """[B, heads, length, size] in the kernels' dtype, padded."""
        x = jnp.swapaxes(x.astype(plan.dtype), 1, 2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))

    def documents(segment_ids: Array, length: int) -> Array:
        padding = length - segment_ids.shape[1]
        return jnp.pad(segment_ids.astype(jnp.int32), ((0, 0), (0, padding)))

    segments = None
    if args.segment_ids is not None:
        of_queries = of_keys = documents(args.segment_ids, plan.length)
        if plan.has_offset:
            key_ids = args.segment_ids if args.key_segment_ids is None else args.key_segment_ids
            of_keys = documents(key_ids, plan.key_length)
        segments = of_queries, of_keys
    out = attention(
        plan,
        prepare(query, plan.length),
        prepare(key, plan.key_length),
        prepare(value, plan.key_length),
        pre_head_kernel,
        args.post_head_kernel,
        segments,
        jnp.asarray(args.query_offset, jnp.int32) if plan.has_offset else None,
    )
    return jnp.swapaxes(out, 1, 2)[:, : args.query.shape[1]].astype(args.output_dtype)


def plan_of(args: Arguments, *, tiles: Tiles, memory_limit: int, interpret: Any) -> Plan:
    """What the kernels are built for; arguments and errors of `attend_all_heads`.

    Of arrays, only shapes and dtypes matter.
    """
    fields = group_fields(args)
    length, key_length = args.query.shape[1], args.key.shape[1]
    dtype, is_part = fields["dtype"], fields["has_offset"]
    memory = Memory(
        group=fields["group"],
        kv_heads=kv_heads_of(fields["group"], fields["num_heads"], fields["num_kv_heads"]),
        head_size=fields["head_size"],
        value_size=fields["value_size"],
        itemsize=dtype.itemsize,
        # They are no operand where they are not mixed.
        logit_itemsize=dtype.itemsize if fields["mixes_logits"] else 4,
    )
    if is_part:
        # A tile then has to suit both lengths.
        query_block = tile_size(length, tiles.query_block)
        tiles = dataclasses.replace(tiles, query_block=query_block)
    fitting = fit(tiles, key_length, memory, memory_limit)
    if fitting is None:
        needed = memory.bytes(list(tiles.smaller())[-1])
        raise too_large(fields, needed, memory_limit)
    plan = Plan(
        **fields,
        length=round_up(length, fitting.query_block if is_part else fitting.key_block),
        key_length=round_up(key_length, fitting.key_block),
        query_block=fitting.query_block,
        key_block=fitting.key_block,
        padded_keys=-key_length % fitting.key_block,
        vmem_limit_bytes=vmem_request(memory.bytes(fitting), memory_limit),
        interpret=interpret,
    )
    refuse_long_tables(plan.tiling, has_offset=is_part)
    return plan
