"""From the arguments of a call to the kernels that hold one head."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu.memory import vmem_request
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.attention import attention
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.block_sizes import BlockSizes, Memory
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import (
    KEY_HALO,
    QUERY_HALO,
    STRIP,
    Plan,
)
from mta_jax.typing import Array, Float


def attend_one_head(
    args: Arguments, *, sizes: BlockSizes, memory_limit: int, interpret: Any
) -> Float[Array, "B T N Hv"]:
    """Multi-token attention with a key-query kernel on the logits, in one fused kernel.

    The convolution becomes an inner product of head size Cq * H, see `expand_keys`, and
    head mixing after the softmax a weighted sum over outputs::

        out[o] = sum_n W_post[n, o] * (probs[n] @ value[o])

    Args:
      args: causal self-attention of float32 or bfloat16 with `pre_kq_kernel`; `segment_ids`
        and `post_head_kernel` are optional. Checked.
      sizes: the largest tiles.
      memory_limit: bytes on the chip that a kernel may ask for.
      interpret: whether kernels are interpreted, or how.

    Raises:
      NotImplementedError: where the kernel or the sequence is too large.
    """
    _refuse_large_kernels(args)
    assert args.pre_kq_kernel is not None
    batch, length, num_heads, head_size = args.query.shape
    num_kv_heads, value_size = args.value.shape[2:]
    _, query_taps, key_taps = args.pre_kq_kernel.shape
    dtype = np.dtype(jnp.result_type(args.query, args.key, args.value))
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
    sizes, padded = sizes.fit(length, memory, memory_limit)
    needed = memory.bytes(padded, sizes.block)
    if needed > memory_limit:
        raise NotImplementedError(
            f"length {length} with head size {head_size}: the backward kernel needs "
            f"{needed >> 20} MiB on the chip, of {memory_limit >> 20}; 'xla_chunked' has "
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
        vmem_limit_bytes=vmem_request(needed, memory_limit),
        interpret=interpret,
    )
    out = attention(plan, query, key, prepare(value), kq_kernel, segment_ids)
    if args.post_head_kernel is not None:
        num_groups, group_size, _ = args.post_head_kernel.shape
        out = _mix_outputs(
            out.reshape(batch, num_groups, group_size, padded, joined, value_size),
            args.post_head_kernel.astype(jnp.float32).reshape(num_groups, group_size, joined, -1),
        ).reshape(batch, num_heads, padded, value_size)
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(args.output_dtype)


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


def _refuse_large_kernels(args: Arguments) -> None:
    assert args.pre_kq_kernel is not None
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
