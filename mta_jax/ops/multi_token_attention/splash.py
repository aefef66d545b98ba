"""Ordinary attention by JAX's own kernel for TPUs, splash attention.

It runs on other backends in interpret mode, which is for tests: it is slow.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

from mta_jax.ops.kept import KEPT
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import round_up, tile_size
from mta_jax.ops.multi_token_attention.requirements import (
    require_causal_self_attention,
    require_no_mixing,
    require_no_varying_axes,
    require_output_of_input_dtype,
    require_output_only,
)
from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, Float, Int

LARGEST_TILE = 1024
"""The best of the tiles tried on v5e and v6e at head size 128 (512 to 2048, 512 and 1024
keys at once): with 2048 keys a logit takes 5 % fewer cycles, but a causal mask over 4,096
positions then leaves 20 % more of them to compute."""

_KEYS_AT_ONCE = 512

_LONGEST_FUSED = 4096
"""Up to here one backward pass is taken, which is faster but keeps the queries' gradient
once for every block of keys; beyond, two passes in linear memory."""


def splash(args: Arguments) -> tuple[Float[Array, "B T N Hv"], None]:
    """Causal attention without any mixing step, whole or over packed documents.

    Raises:
      NotImplementedError: for anything else, naming the limit.
    """
    require_no_mixing(args)
    require_output_only(args)
    require_causal_self_attention(args)
    require_no_varying_axes(args)
    dtype = jnp.result_type(args.query, args.key, args.value)
    if dtype != jnp.bfloat16:
        raise NotImplementedError(
            f"dtype {dtype}: this kernel rounds factors to bfloat16; 'xla_chunked' does not"
        )
    require_output_of_input_dtype(args)
    length, num_heads = args.query.shape[1:3]
    tile = tile_size(length, LARGEST_TILE)
    padded = round_up(length, tile)

    def prepare(x: Array) -> Array:
        # Keys that are padded come last, where no query sees them.
        x = jnp.pad(x.astype(dtype), ((0, 0), (0, padded - length), (0, 0), (0, 0)))
        return jnp.swapaxes(x, 1, 2)

    # The kernel has no scale of its own.
    query = (args.query.astype(jnp.float32) * args.logit_scale).astype(dtype)
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([splash_attention.CausalMask((padded, padded))] * num_heads),
        block_sizes=_block_sizes(padded, tile),
        residual_checkpoint_name=KEPT,
        interpret=target_platform() != "tpu",
    )

    def attend(
        query: Float[Array, "N T H"],
        key: Float[Array, "K T H"],
        value: Float[Array, "K T Hv"],
        segment_ids: Int[Array, "T"] | None,
    ) -> Float[Array, "N T Hv"]:
        documents = None
        if segment_ids is not None:
            documents = splash_attention.SegmentIds(segment_ids, segment_ids)
        return kernel(query, key, value, segment_ids=documents)

    segment_ids = args.segment_ids
    if segment_ids is not None:
        # Any document will do for padded queries: they see themselves at least.
        segment_ids = jnp.pad(segment_ids.astype(jnp.int32), ((0, 0), (0, padded - length)))
    out = jax.vmap(attend)(prepare(query), prepare(args.key), prepare(args.value), segment_ids)
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(args.output_dtype), None


def _block_sizes(length: int, tile: int) -> splash_attention.BlockSizes:
    fused = length <= _LONGEST_FUSED
    keys_at_once = min(tile, _KEYS_AT_ONCE)
    return splash_attention.BlockSizes(
        block_q=tile,
        block_kv=tile,
        block_kv_compute=keys_at_once,
        block_q_dkv=tile,
        block_kv_dkv=tile,
        block_kv_dkv_compute=keys_at_once,
        block_q_dq=None if fused else tile,
        block_kv_dq=None if fused else tile,
        use_fused_bwd_kernel=fused,
    )
