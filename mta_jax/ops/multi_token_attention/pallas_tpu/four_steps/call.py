"""From the arguments of a call to the kernels that have all four mixing steps."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.attention import (
    MixingKernels,
    Sequences,
    attention,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.memory import Memory
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import (
    ALIGNED,
    KEY_HALO,
    MARGIN,
    Plan,
    Taps,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, round_up
from mta_jax.ops.multi_token_attention.pallas_tpu.memory import vmem_request
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    group_fields,
    kv_heads_of,
    too_large,
    whole_kv_heads,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import refuse_long_tables
from mta_jax.typing import Array, Float, KeyPadding

MOST_WINDOWS = 2
"""Of keys in a tile."""


def attend_in_four_steps(args: Arguments, plan: Plan) -> Float[Array, "B T N Hv"]:
    """Multi-token attention with any of the four mixing steps, as planned by `plan_of`."""
    query = args.query
    if not isinstance(args.logit_scale, int | float):
        query = query.astype(jnp.float32) * args.logit_scale
    key, value = whole_kv_heads(plan.group, plan.num_heads, args.key, args.value)

    def prepare(x: Array, length: int, size: int) -> Array:
        """[B, heads, length, size] in the kernels' dtype, padded."""
        x = jnp.swapaxes(x.astype(plan.dtype), 1, 2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, size - x.shape[3])))

    segment_ids, key_segment_ids = args.segment_ids, args.key_segment_ids
    if segment_ids is not None:
        segment_ids = segment_ids.astype(jnp.int32)
        key_segment_ids = segment_ids if key_segment_ids is None else key_segment_ids
    out = attention(
        plan,
        prepare(query, plan.length, plan.head_size),
        prepare(key, plan.key_length, plan.head_size),
        prepare(value, plan.key_length, plan.value_size),
        MixingKernels(
            args.pre_kq_kernel, args.pre_head_kernel, args.post_kq_kernel, args.post_head_kernel
        ),
        Sequences(
            segment_ids,
            None if key_segment_ids is None else key_segment_ids.astype(jnp.int32),
            jnp.asarray(args.query_offset, jnp.int32) if plan.has_offset else None,
        ),
    )
    out = out[:, :, : query.shape[1], : value.shape[3]]
    return jnp.swapaxes(out, 1, 2).astype(args.output_dtype)


def plan_of(args: Arguments, *, windows: int, memory_limit: int, interpret: Any) -> Plan:
    """What the kernels are built for.

    Args:
      args: causal attention of float32 or bfloat16; checked. Of arrays, only shapes and
        dtypes matter.
      windows: of keys in a tile, at most.
      memory_limit: bytes on the chip that a kernel may ask for.
      interpret: whether kernels are interpreted, or how.

    Raises:
      NotImplementedError: where a kernel is too large, or the heads of a mixing group, or the
        order of the tiles, need more memory than there is.
    """
    fields = group_fields(args)
    length, num_keys = args.query.shape[1], args.key.shape[1]
    pre_taps = _taps("pre_kq_kernel", args.pre_kq_kernel, args.key_padding)
    post_taps = _taps("post_kq_kernel", args.post_kq_kernel, args.key_padding)
    memory = Memory(
        group=fields["group"],
        kv_heads=kv_heads_of(fields["group"], fields["num_heads"], fields["num_kv_heads"]),
        head_size=fields["head_size"],
        value_size=fields["value_size"],
        taps=sum(taps.queries for taps in (pre_taps, post_taps) if taps),
        itemsize=fields["dtype"].itemsize,
    )
    while windows > 1 and memory.backward_bytes(windows) > memory_limit:
        windows //= 2
    needed = memory.backward_bytes(windows)
    if needed > memory_limit:
        raise too_large(fields, needed, memory_limit)
    # Rows of queries and outputs are sorted in whole registers.
    sizes = {
        name: round_up(fields[name], LANES)
        for name in ("head_size", "value_size")
        if fields[name] > LANES
    }
    plan = Plan(
        **fields | sizes,
        length=length,
        key_length=num_keys,
        last_key=num_keys - 1,
        pre_taps=pre_taps,
        post_taps=post_taps,
        windows=windows,
        vmem_limit_bytes=vmem_request(needed, memory_limit),
        interpret=interpret,
    )
    plan = dataclasses.replace(
        plan,
        length=max(round_up(length, ALIGNED), plan.queries),
        key_length=max(round_up(num_keys, ALIGNED), plan.tile_keys),
    )
    for is_backward in (False, True):
        direction = dataclasses.replace(plan, is_backward=is_backward)
        tiles = max(direction.query_windows, direction.key_tiles)
        others = plan.batch * tiles if plan.has_segments else 0
        refuse_long_tables(direction.tiling, has_offset=plan.has_offset, others=others)
    keeps_logits = memory.forward_bytes(windows, plan.key_tiles) <= memory_limit
    kept_maps = 2
    while kept_maps and memory.backward_bytes(windows, kept_maps * plan.key_tiles) > memory_limit:
        kept_maps -= 1
    needed = max(
        memory.forward_bytes(windows, plan.key_tiles if keeps_logits else 0),
        memory.backward_bytes(windows, kept_maps * plan.key_tiles),
    )
    return dataclasses.replace(
        plan,
        keeps_logits=keeps_logits,
        kept_maps=kept_maps,
        vmem_limit_bytes=vmem_request(needed, memory_limit),
    )


def _taps(name: str, kernel: Array | None, padding: KeyPadding) -> Taps | None:
    if kernel is None:
        return None
    _, queries, keys = kernel.shape
    before, after = key_padding_widths(keys, padding)
    if queries > 2 * MARGIN + 1 or max(before, after) > KEY_HALO:
        raise NotImplementedError(
            f"{name} of size {queries}x{keys}: at most {2 * MARGIN + 1} query taps and "
            f"{KEY_HALO} keys on either side; 'xla_chunked' takes more"
        )
    return Taps(queries=queries, keys=keys, before=before)
