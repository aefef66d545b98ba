"""The arguments of one call, in the form every implementation takes."""

import dataclasses

from mta_jax.ops import masks
from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.typing import Array, Bool, DropoutKey, DTypeLike, Float, Int, KeyPadding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of `multi_token_attention`, which documents each of them.

    `return_weights` tells an implementation that the attention weights are wanted.
    """

    query: Float[Array, "B T N H"]
    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K Hv"]
    pre_kq_kernel: Float[Array, "N Cq Ck"] | None = None
    pre_head_kernel: Float[Array, "M Ch Ch"] | None = None
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None = None
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None = None
    mask: Bool[Array, "#B #N #T #S"] | None = None
    segment_ids: Int[Array, "B T"] | None = None
    key_segment_ids: Int[Array, "B S"] | None = None
    is_causal: bool = True
    query_offset: int | Int[Array, ""] = 0
    scale: float | Float[Array, ""] | None = None
    key_padding: KeyPadding = "both"
    dropout_rate: float = 0.0
    dropout_key: DropoutKey | None = None
    out_dtype: DTypeLike | None = None
    return_weights: bool = False

    @property
    def logit_scale(self) -> float | Float[Array, ""]:
        """`scale`, or its default."""
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def output_dtype(self) -> DTypeLike:
        """`out_dtype`, or its default."""
        return self.value.dtype if self.out_dtype is None else self.out_dtype

    def allowed(self) -> Bool[Array, "#B #N T S"]:
        """The mask that all restrictions together make."""
        return masks.attention_mask(
            self.query.shape[1],
            self.key.shape[1],
            is_causal=self.is_causal,
            query_offset=self.query_offset,
            mask=self.mask,
            segment_ids=self.segment_ids,
            key_segment_ids=self.key_segment_ids,
        )


def check(args: Arguments) -> None:
    """Raises ValueError, naming the argument, where arguments disagree."""
    for name, array in (("query", args.query), ("key", args.key), ("value", args.value)):
        if array.ndim != 4:
            raise ValueError(
                f"{name} has shape {array.shape}: expected 4 axes, [batch, length, heads, size]"
            )
    batch, query_length, num_heads, head_size = args.query.shape
    key_length, num_kv_heads = args.key.shape[1:3]
    if args.key.shape != (batch, key_length, num_kv_heads, head_size):
        raise ValueError(
            f"key has shape {args.key.shape}: expected batch {batch} and head size {head_size} "
            f"as in query {args.query.shape}"
        )
    if args.value.shape[:3] != args.key.shape[:3]:
        raise ValueError(
            f"value has shape {args.value.shape}: expected {args.key.shape[:3]} in its first "
            "three axes, as in key"
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"{num_heads} query heads over {num_kv_heads} key/value heads: the first must be a "
            "multiple of the second"
        )

    if args.key_padding not in ("both", "left", "right"):
        raise ValueError(f"key_padding {args.key_padding!r}: must be 'both', 'left' or 'right'")
    for name, kq_kernel in (
        ("pre_kq_kernel", args.pre_kq_kernel),
        ("post_kq_kernel", args.post_kq_kernel),
    ):
        if kq_kernel is None:
            continue
        if kq_kernel.ndim != 3 or kq_kernel.shape[0] != num_heads:
            raise ValueError(
                f"{name} has shape {kq_kernel.shape}: expected [{num_heads}, Cq, Ck], one kernel "
                "per query head"
            )
        key_padding_widths(kq_kernel.shape[2], args.key_padding)
    for name, head_kernel in (
        ("pre_head_kernel", args.pre_head_kernel),
        ("post_head_kernel", args.post_head_kernel),
    ):
        if head_kernel is None:
            continue
        if (
            head_kernel.ndim != 3
            or head_kernel.shape[1] != head_kernel.shape[2]
            or head_kernel.shape[0] * head_kernel.shape[1] != num_heads
        ):
            raise ValueError(
                f"{name} has shape {head_kernel.shape}: expected [groups, size, size] with "
                f"groups * size = {num_heads} query heads"
            )

    if args.mask is not None:
        full = (batch, num_heads, query_length, key_length)
        if args.mask.ndim != 4 or any(
            got not in (1, want) for got, want in zip(args.mask.shape, full, strict=True)
        ):
            raise ValueError(f"mask has shape {args.mask.shape}: must broadcast to {full}")
        if args.mask.dtype != bool:
            raise ValueError(
                f"mask has dtype {args.mask.dtype}: expected bool, true where a query may attend"
            )
    if args.segment_ids is None and args.key_segment_ids is not None:
        raise ValueError("key_segment_ids without segment_ids: queries need their documents too")
    if args.segment_ids is not None and args.key_segment_ids is None and query_length != key_length:
        raise ValueError(
            f"segment_ids without key_segment_ids, with {query_length} queries and {key_length} "
            "keys: keys need their documents too"
        )
    for name, ids, length in (
        ("segment_ids", args.segment_ids, query_length),
        ("key_segment_ids", args.key_segment_ids, key_length),
    ):
        if ids is not None and ids.shape != (batch, length):
            raise ValueError(f"{name} has shape {ids.shape}: expected {(batch, length)}")

    if not 0.0 <= args.dropout_rate < 1.0:
        raise ValueError(f"dropout_rate {args.dropout_rate}: must be in [0, 1)")
    if (args.dropout_rate > 0) != (args.dropout_key is not None):
        raise ValueError(
            f"dropout_rate {args.dropout_rate} with dropout_key {args.dropout_key}: dropout needs "
            "both, and no dropout neither"
        )
