"""Fused implementation for TPU: linear memory, no logits in main memory.

Runs on other backends in interpret mode, which is for tests: it is slow.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu.attention import attention
from mta_jax.ops.multi_token_attention.pallas_tpu.block_sizes import (
    INTERPRETED,
    LEAST_VMEM_BYTES,
    BlockSizes,
    Memory,
    block_sizes,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.plan import (
    KEY_HALO,
    QUERY_HALO,
    STRIP,
    Plan,
)
from mta_jax.ops.multi_token_attention.requirements import (
    require_causal_self_attention,
    require_no,
    require_no_varying_axes,
    require_output_only,
)
from mta_jax.ops.target import target_kind, target_platform
from mta_jax.typing import Array, Float


def pallas_tpu(
    args: Arguments, *, sizes: BlockSizes | None = None, interpret: Any = None
) -> tuple[Float[Array, "B T N Hv"], None]:
    """Multi-token attention with a key-query kernel on the logits, in one fused kernel.

    The convolution becomes an inner product of head size Cq * H, see `expand_keys`, and
    head mixing after the softmax a weighted sum over outputs::

        out[o] = sum_n W_post[n, o] * (probs[n] @ value[o])

    Args:
      args: causal self-attention with `pre_kq_kernel`; `segment_ids` and
        `post_head_kernel` are optional.
      sizes: tiles; default: those of the TPU at hand.
      interpret: whether kernels are interpreted, or how; default: where there is no TPU.

    Returns:
      The output; attention weights are never formed.

    Raises:
      NotImplementedError: for anything else, naming the limit.
    """
    _refuse_what_is_missing(args)
    assert args.pre_kq_kernel is not None
    batch, length, num_heads, head_size = args.query.shape
    num_kv_heads, value_size = args.value.shape[2:]
    _, query_taps, key_taps = args.pre_kq_kernel.shape
    dtype = np.dtype(jnp.result_type(args.query, args.key, args.value))
    if interpret is None:
        interpret = target_platform() != "tpu"
    if sizes is None:
        sizes = INTERPRETED if interpret else block_sizes(target_kind())
    kq_kernel = args.pre_kq_kernel.astype(jnp.float32)
    scale = args.logit_scale
    if not isinstance(scale, int | float):
        kq_kernel, scale = kq_kernel * scale, 1.0

    value, joined = jnp.swapaxes(args.value, 1, 2), 1
    if args.post_head_kernel is not None:
        value, joined = _join_values(value, num_heads, args.post_head_kernel.shape[1])
    memory = Memory(
        head_size=head_size,
        value_size=value.shape[3],
        query_taps=query_taps,
        has_segments=args.segment_ids is not None,
        itemsize=dtype.itemsize,
    )
    sizes, padded = sizes.fit(length, memory)
    needed = memory.bytes(padded, sizes.block)
    if needed > sizes.vmem_limit_bytes:
        raise NotImplementedError(
            f"length {length} with head size {head_size}: the backward kernel needs "
            f"{needed >> 20} MiB on the chip, of {sizes.vmem_limit_bytes >> 20}; 'xla_chunked' has "
            "no such limit"
        )

    def prepare(x: Array) -> Array:
        """[B, heads, T, size] in the kernels' dtype, padded."""
        return jnp.pad(x.astype(dtype), ((0, 0), (0, 0), (0, padded - length), (0, 0)))

    query, key = (prepare(jnp.swapaxes(x, 1, 2)) for x in (args.query, args.key))
    segment_ids = args.segment_ids
    if segment_ids is not None:
        segment_ids = jnp.pad(segment_ids.astype(jnp.int32), ((0, 0), (0, padded - length)))
    plan = Plan(
        batch=batch,
        length=padded,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        num_values=value.shape[1],
        head_size=head_size,
        value_size=value.shape[3],
        query_taps=query_taps,
        key_taps=key_taps,
        keys_before=key_padding_widths(key_taps, args.key_padding)[0],
        scale=float(scale),
        has_segments=segment_ids is not None,
        dtype=dtype,
        out_dtype=_kernel_output_dtype(args, dtype),
        block=sizes.block,
        forward_rows=sizes.forward_rows,
        forward_columns=sizes.forward_columns,
        # With more than it needs, the compiler makes each step of the grid take longer.
        vmem_limit_bytes=min(sizes.vmem_limit_bytes, max(needed, LEAST_VMEM_BYTES)),
        interpret=interpret,
    )
    out = attention(plan, query, key, prepare(value), kq_kernel, segment_ids)
    if args.post_head_kernel is not None:
        num_groups, group_size, _ = args.post_head_kernel.shape
        out = _mix_outputs(
            out.reshape(batch, num_groups, group_size, padded, joined, value_size),
            args.post_head_kernel.astype(jnp.float32).reshape(num_groups, group_size, joined, -1),
        ).reshape(batch, num_heads, padded, value_size)
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(args.output_dtype), None


def _kernel_output_dtype(args: Arguments, dtype: np.dtype) -> np.dtype:
    """Of what the kernel writes, and reads again for the gradient."""
    narrow = np.dtype(jnp.bfloat16)
    # Mixing heads reads it once more, and should not read it rounded.
    if args.post_head_kernel is None and dtype == narrow == args.output_dtype:
        return narrow
    return np.dtype(jnp.float32)


def _join_values(
    value: Float[Array, "B K T Hv"], num_heads: int, group_size: int
) -> tuple[Array, int]:
    """Values that the heads of each mixing group need, side by side.

    Returns:
      ``[B, V, T, joined * Hv]`` with V dividing `num_heads`, and how many are joined.
    """
    batch, num_kv_heads, length, value_size = value.shape
    sharing = num_heads // num_kv_heads
    if sharing % group_size == 0:
        return value, 1
    if group_size % sharing:
        value, sharing = jnp.repeat(value, sharing, axis=1), 1
    joined = group_size // sharing
    grouped = value.reshape(batch, -1, joined, length, value_size)
    return jnp.swapaxes(grouped, 2, 3).reshape(batch, -1, length, joined * value_size), joined


@jax.custom_vjp
def _mix_outputs(
    out: Float[Array, "B M Ch T joined Hv"], kernel: Float[Array, "M Ch joined sharing"]
) -> Float[Array, "B M joined sharing T Hv"]:
    """Sums the outputs of each group, weighted for each of its heads.

    Heads of a group take turns over the joined values, `sharing` heads each.
    """
    return jnp.einsum("BMNTJH,MNJS->BMJSTH", out, kernel, precision=jax.lax.Precision.HIGHEST)


def _mix_forward(out: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mix_outputs(out, kernel), (out, kernel)


def _mix_backward(residuals: tuple[Array, Array], dmixed: Array) -> tuple[Array, Array]:
    out, kernel = residuals
    highest = jax.lax.Precision.HIGHEST
    dout = jnp.einsum("BMJSTH,MNJS->BMNTJH", dmixed, kernel, precision=highest)
    # As in `head_mixing`: one long product would add up its rounding, row by row does not.
    by_row = jnp.einsum("BMNTJH,BMJSTH->BTMNJS", out, dmixed, precision=highest)
    return dout, jnp.sum(by_row, axis=(0, 1))


_mix_outputs.defvjp(_mix_forward, _mix_backward)


def _refuse_what_is_missing(args: Arguments) -> None:
    require_no(args, "pre_head_kernel", "post_kq_kernel")
    if args.pre_kq_kernel is None:
        raise NotImplementedError(
            "without pre_kq_kernel: this kernel is for it; 'splash' and 'xla_chunked' do without"
        )
    require_output_only(args)
    require_causal_self_attention(args)
    require_no_varying_axes(args)
    dtype = jnp.result_type(args.query, args.key, args.value)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(
            f"dtype {dtype}: only float32 and bfloat16; 'xla_chunked' takes any"
        )
    _, query_taps, key_taps = args.pre_kq_kernel.shape
    before, after = key_padding_widths(key_taps, args.key_padding)
    # The last limit keeps the wrapped lanes of a strip apart, see `band`.
    if (
        query_taps - 1 > QUERY_HALO
        or max(before, after) > KEY_HALO
        or query_taps - 1 + before + 2 * after + QUERY_HALO > STRIP
    ):
        raise NotImplementedError(
            f"kernel size {query_taps}x{key_taps}: at most {QUERY_HALO + 1} query taps and "
            f"{KEY_HALO} keys on either side; 'xla_chunked' takes more"
        )
