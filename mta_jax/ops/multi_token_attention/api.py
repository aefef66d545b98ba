"""The public function: check the call, pick an implementation, run it."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from mta_jax.ops.manual_axes import vary_alike
from mta_jax.ops.multi_token_attention.arguments import Arguments, check
from mta_jax.ops.multi_token_attention.cudnn import cudnn
from mta_jax.ops.multi_token_attention.pallas_tpu import pallas_tpu
from mta_jax.ops.multi_token_attention.reference import reference
from mta_jax.ops.multi_token_attention.splash import splash
from mta_jax.ops.multi_token_attention.xla import xla
from mta_jax.ops.multi_token_attention.xla_chunked import xla_chunked
from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, Bool, DropoutKey, DTypeLike, Float, Int, KeyPadding

_logger = logging.getLogger(__name__)

Implementation = Literal["reference", "xla", "xla_chunked", "pallas_tpu", "splash", "cudnn"]

IMPLEMENTATIONS: dict[str, Callable[[Arguments], tuple[Array, Array | None]]] = {
    "reference": reference,
    "xla": xla,
    "xla_chunked": xla_chunked,
    "pallas_tpu": pallas_tpu,
    "splash": splash,
    "cudnn": cudnn,
}
"""Every implementation by name. Arguments reach it checked; one that cannot serve
a call raises NotImplementedError, naming the limit."""

_ANYWHERE: tuple[Implementation, ...] = ("xla_chunked", "xla")

_TPU_KERNELS: tuple[Implementation, ...] = ("pallas_tpu", "splash")


def multi_token_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    *,
    pre_kq_kernel: Float[Array, "N Cq Ck"] | None = None,
    pre_head_kernel: Float[Array, "M Ch Ch"] | None = None,
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None = None,
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None = None,
    mask: Bool[Array, "#B #N #T #S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    is_causal: bool = True,
    query_offset: int | Int[Array, ""] = 0,
    scale: float | Float[Array, ""] | None = None,
    key_padding: KeyPadding = "both",
    dropout_rate: float = 0.0,
    dropout_key: DropoutKey | None = None,
    out_dtype: DTypeLike | None = None,
    implementation: Implementation | Sequence[Implementation] | None = None,
) -> Float[Array, "B T N Hv"]:
    r"""Multi-token attention (https://arxiv.org/abs/2504.00927, section 3).

    With all four mixing steps, and ``mask`` standing for every restriction::

        logits = scale * query @ key.T
        logits = mix(conv(where(mask, logits, 0), pre_kq_kernel), pre_head_kernel)
        probs  = softmax(where(mask, logits, -large))
        probs  = mix(where(mask, conv(probs, post_kq_kernel), 0), post_head_kernel)
        out    = probs @ value

    Each kernel may be None, which leaves its step out; with none at all this is
    ordinary attention. ``conv`` is a cross-correlation that reads the rows of the
    Cq - 1 queries before and keys around each position; ``mix`` is a square matrix
    inside each group of Ch consecutive heads. Any `T` and `S` are allowed.

    Args:
      query: queries. Rotary embedding, if any, has been applied.
      key: keys; K may divide N (grouped-query attention).
      value: values.
      pre_kq_kernel: key-query kernel on the logits; tap ``[n, Cq - 1, Ck // 2]``
        (padding "both") sits on the query and key themselves.
      pre_head_kernel: head mixing of the logits, (in, out) within each group.
      post_kq_kernel: key-query kernel on the probabilities.
      post_head_kernel: head mixing of the probabilities, (in, out).
      mask: true where a query may attend. It hides keys; rows of padded queries
        are still rows that a kernel can reach, so give padding its own segment. Where
        it differs between heads, head mixing after the softmax still brings a head
        the weights that others give to a key it may not see itself.
      segment_ids: document of each query, for packed rows. Queries attend within
        their document, and kernels do not reach into another one.
      key_segment_ids: document of each key; default: `segment_ids`, where T == S.
      is_causal: query i sees keys j <= i + query_offset only.
      query_offset: key position of the first query (for T != S).
      scale: factor of the logits; default ``H ** -0.5``.
      key_padding: "both" lets a key-query kernel reach keys on both sides (odd Ck
        only), "left" earlier keys, "right" later ones.
      dropout_rate: dropout on the final attention weights.
      dropout_key: random key, required where dropout_rate > 0.
      out_dtype: dtype of the output; default: that of `value`.
      implementation: None takes the best that supports the call; a name is a
        demand; a sequence takes the first that supports the call.

    Returns:
      The output. A query that no head of a mixing group
      allows any key gives zeros.

    Raises:
      ValueError: for arguments that disagree, naming the argument.
      NotImplementedError: where a named implementation cannot serve the call.

    Differentiable once, in reverse mode; `reference` in any mode, any number of times.

    Example:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (1, 16, 2, 8))
      >>> nothing = jnp.zeros((2, 6, 11))
      >>> identity = nothing.at[:, -1, 11 // 2].set(1.0)  # on the query and key themselves
      >>> out = multi_token_attention(q, k, v, pre_kq_kernel=identity)
      >>> plain = jax.nn.dot_product_attention(q, k, v, is_causal=True)
      >>> bool(jnp.allclose(out, plain, atol=1e-5))
      True
      >>> matches = nothing.at[:, -2:, 4:6].set(jnp.eye(2))  # also the query and key before
      >>> multi_token_attention(q, k, v, pre_kq_kernel=matches).shape
      (1, 16, 2, 8)
    """
    args = Arguments(
        query=query,
        key=key,
        value=value,
        pre_kq_kernel=pre_kq_kernel,
        pre_head_kernel=pre_head_kernel,
        post_kq_kernel=post_kq_kernel,
        post_head_kernel=post_head_kernel,
        mask=mask,
        segment_ids=segment_ids,
        key_segment_ids=key_segment_ids,
        is_causal=is_causal,
        query_offset=query_offset,
        scale=scale,
        key_padding=key_padding,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
        out_dtype=out_dtype,
    )
    out, _ = _run(args, implementation)
    return out


def multi_token_attention_weights(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    *,
    pre_kq_kernel: Float[Array, "N Cq Ck"] | None = None,
    pre_head_kernel: Float[Array, "M Ch Ch"] | None = None,
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None = None,
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None = None,
    mask: Bool[Array, "#B #N #T #S"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    key_segment_ids: Int[Array, "B S"] | None = None,
    is_causal: bool = True,
    query_offset: int | Int[Array, ""] = 0,
    scale: float | Float[Array, ""] | None = None,
    key_padding: KeyPadding = "both",
    implementation: Implementation | Sequence[Implementation] | None = None,
) -> Float[Array, "B N T S"]:
    """The final attention weights of `multi_token_attention`, after every mixing step.

    They are what multiplies the values. Rows need not sum to one and entries may be
    negative. For a look inside; the whole map is materialised. Arguments as there.

    Example:
      >>> q = k = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
      >>> weights = multi_token_attention_weights(q, k)
      >>> weights.shape
      (1, 2, 4, 4)
      >>> weights[0, 0, 0].tolist()  # the first query sees the first key only
      [1.0, 0.0, 0.0, 0.0]
    """
    args = Arguments(
        query=query,
        key=key,
        value=key,
        pre_kq_kernel=pre_kq_kernel,
        pre_head_kernel=pre_head_kernel,
        post_kq_kernel=post_kq_kernel,
        post_head_kernel=post_head_kernel,
        mask=mask,
        segment_ids=segment_ids,
        key_segment_ids=key_segment_ids,
        is_causal=is_causal,
        query_offset=query_offset,
        scale=scale,
        key_padding=key_padding,
        return_weights=True,
    )
    _, weights = _run(args, implementation)
    assert weights is not None
    return weights


def _run(
    args: Arguments, implementation: Implementation | Sequence[Implementation] | None
) -> tuple[Array, Array | None]:
    check(args)
    if isinstance(implementation, str):
        candidates: Sequence[str] = (implementation,)
    else:
        candidates = _best() if implementation is None else implementation
    if not candidates:
        raise ValueError("implementation is empty: name at least one, or None for the best")
    for name in candidates:
        if name not in IMPLEMENTATIONS:
            raise ValueError(f"implementation {name!r}: must be one of {sorted(IMPLEMENTATIONS)}")
    if 0 in (*args.query.shape[:3], args.key.shape[1]):
        return _nothing(args)
    args = _vary_alike(args)
    reasons = []
    for name in candidates:
        try:
            result = IMPLEMENTATIONS[name](args)
        except NotImplementedError as error:
            reasons.append(f"{name}: {error}")
            continue
        if not isinstance(implementation, str) and not args.return_weights:
            _log_choice(name)
        return result
    raise NotImplementedError("; ".join(reasons))


def _nothing(args: Arguments) -> tuple[Array, Array]:
    """The result where there are no queries, or no keys."""
    batch, length, num_heads, _ = args.query.shape
    out = jnp.zeros((batch, length, num_heads, args.value.shape[3]), args.output_dtype)
    return out, jnp.zeros((batch, num_heads, length, args.key.shape[1]), jnp.float32)


def _vary_alike(args: Arguments) -> Arguments:
    """Arguments that differ between devices or not, all or none of them."""
    arrays = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name != "dropout_key" and isinstance(getattr(args, field.name), jax.Array)
    }
    return dataclasses.replace(args, **vary_alike(arrays))


def _best() -> tuple[Implementation, ...]:
    """What to try, the best first."""
    platform = target_platform()
    if platform == "gpu":
        return ("cudnn", *_ANYWHERE)
    if platform != "tpu":
        return _ANYWHERE
    if jax.device_count() > 1 and not _in_shard_map():
        # XLA may have to split the program over devices, and cannot split these kernels.
        return _ANYWHERE
    return _TPU_KERNELS + _ANYWHERE


def _in_shard_map() -> bool:
    """Whether what is traced is the program of one device."""
    kinds = jax.sharding.get_abstract_mesh().axis_types
    return bool(kinds) and all(kind == jax.sharding.AxisType.Manual for kind in kinds)


@functools.cache
def _log_choice(name: str) -> None:
    """Logs each automatic choice once per process."""
    _logger.info("multi_token_attention: implementation %r", name)
