"""Multi-token attention as a Flax module."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax.typing import PrecisionLike
from jax.nn.initializers import Initializer, zeros

from mta_jax.layers.arguments import (
    dropout_key,
    hashable_implementation,
    head_dim_of,
    ids_of_one_batch_axis,
    is_zero,
    mask_of_one_batch_axis,
    one_batch_axis,
)
from mta_jax.layers.decode import DecodingModule
from mta_jax.layers.group_norm import GroupNorm, GroupNormScaling
from mta_jax.layers.initializers import KernelInit
from mta_jax.layers.mixing import kernels_of, mixing_steps
from mta_jax.layers.projections import heads_projection, output_projection, rotate
from mta_jax.ops.multi_token_attention import (
    Implementation,
    multi_token_attention,
    multi_token_attention_weights,
)
from mta_jax.ops.rope import RopeLayout, RopeScaling
from mta_jax.parallel.attention import attend_on_mesh
from mta_jax.parallel.rules import constrain
from mta_jax.typing import Array, Bool, DropoutKey, DTypeLike, Float, Int, KeyPadding, Shaped

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class MultiTokenAttention(DecodingModule):
    """Attention with convolved and mixed attention maps (https://arxiv.org/abs/2504.00927).

    Projects, applies rotary embedding, runs `mta_jax.ops.multi_token_attention`,
    normalises each head (paper section 3.3) and projects back. It takes the place of
    `flax.nnx.MultiHeadAttention`: arguments that both have are named, ordered and meant
    alike; docs/use_in_your_model.md lists them all. Its defaults are the paper's, and
    differ from Flax's in three: it is causal, has no biases, and applies rotary embedding.

    The default kernels are the paper's: 6 x 11, and mixing over all heads, before and
    after the softmax, all starting as identities, and a gated group norm. (The paper
    has the 6 x 11 kernels in every fourth layer.) With every kernel size None and
    `group_norm` None this is ordinary attention.

    Args:
      num_heads: N.
      in_features: D, width of the inputs.
      qkv_features: ``N * H``; default: `in_features`. `head_dim` says the same.
      out_features: width of the output; default: `in_features`.
      num_kv_heads: K, must divide N; default: N.
      in_kv_features: width of what keys and values are made of; default: `in_features`.
      dtype: dtype of the computation; default: that of inputs and parameters.
      param_dtype: dtype of the parameters.
      broadcast_dropout: must be false: every batch element and head draws its own.
      dropout_rate: dropout on the final attention weights.
      deterministic: turns dropout off. With None the call says it; `model.train()` and
        `model.eval()` set it.
      precision: of the projections; float32 attention is float32 throughout.
      kernel_init: how the projections start; default: the paper's truncated normal.
      out_kernel_init: how the last one starts; default: `kernel_init`.
      bias_init: how biases start.
      out_bias_init: how the last one's bias starts; default: `bias_init`.
      use_bias: biases in the four projections.
      attention_fn: must be None: this is the attention. `MultiTokenAttentionFn` is one for
        Flax's class.
      decode: each call gives the next tokens of what `init_cache` made a cache for; any
        number of them, where Flax's class takes one.
      normalize_qk: layer norm of each head of queries and keys, before rotary embedding,
        with a scale and no bias (https://arxiv.org/abs/2302.05442).
      qkv_promote_dtype: how the first three projections promote dtypes.
      out_promote_dtype: how the last one does.
      ln_promote_dtype: how the norms of `normalize_qk` do.
      head_dim: H; default: ``in_features // num_heads``.
      pre_kq_kernel_size: (Cq, Ck) of the convolution of the logits, or None.
      pre_head_kernel_size: heads per group for mixing the logits, "all", or None.
      post_kq_kernel_size: as above, of the attention weights.
      post_head_kernel_size: as above, of the attention weights.
      key_padding: where key-query kernels reach on the key axis.
      mixing_init: how the mixing kernels start.
      group_norm: scaling of the group norm, or None for no group norm.
      layer_index: position of the layer, for `group_norm` "depth".
      rope_theta: base of the rotary embedding; None for no rotary embedding.
      rope_layout: which features form a rotary pair.
      rope_scaling: changes the wavelengths of the rotary embedding, or None.
      qk_norm: RMSNorm of each head of queries and keys in place of `normalize_qk`, as Qwen 3
        has it; its weight [H] is shared by the heads.
      qkv_bias: biases in the projections of queries, keys and values only.
      norm_epsilon: added to the mean square in the group norm and those of `qk_norm`.
      is_causal: queries see earlier keys only; encoders and cross-attention pass False.
      implementation: see `mta_jax.ops.multi_token_attention`.
      rngs: source of the `params` keys, and of `dropout`.
      keep_rngs: whether dropout draws from `rngs` where the call gives no other.
      kernel_metadata: of the kernels of the projections.
      out_kernel_metadata: of the last one's; default: `kernel_metadata`.
      bias_metadata: of the biases of the projections.
      out_bias_metadata: of the last one's; default: `bias_metadata`.
      query_ln_scale_metadata: of the scale of the norm of queries.
      key_ln_scale_metadata: of the scale of the norm of keys.

    Raises:
      ValueError: for sizes that do not fit together, or what only Flax's class can do.

    Example:
      >>> attention = MultiTokenAttention(num_heads=4, in_features=32, rngs=nnx.Rngs(0))
      >>> x = jnp.ones((2, 16, 32))  # [batch, length, features]
      >>> attention(x).shape
      (2, 16, 32)
      >>> attention.attention_weights(x).shape
      (2, 4, 16, 16)
      >>> attention.pre_kq.kernel.shape, attention.post_head.kernel.shape
      ((4, 6, 11), (1, 4, 4))
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        qkv_features: int | None = None,
        out_features: int | None = None,
        num_kv_heads: int | None = None,
        in_kv_features: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        broadcast_dropout: bool = False,
        dropout_rate: float = 0.0,
        deterministic: bool | None = None,
        precision: PrecisionLike = None,
        kernel_init: Initializer | None = None,
        out_kernel_init: Initializer | None = None,
        bias_init: Initializer = zeros,
        out_bias_init: Initializer | None = None,
        use_bias: bool = False,
        attention_fn: Any = None,
        decode: bool | None = None,
        normalize_qk: bool = False,
        qkv_promote_dtype: Callable[..., Any] = promote_dtype,
        out_promote_dtype: Callable[..., Any] = promote_dtype,
        ln_promote_dtype: Callable[..., Any] = promote_dtype,
        head_dim: int | None = None,
        pre_kq_kernel_size: tuple[int, int] | None = (6, 11),
        pre_head_kernel_size: int | Literal["all"] | None = "all",
        post_kq_kernel_size: tuple[int, int] | None = (6, 11),
        post_head_kernel_size: int | Literal["all"] | None = "all",
        key_padding: KeyPadding = "both",
        mixing_init: KernelInit = "identity",
        group_norm: GroupNormScaling | None = "gate",
        layer_index: int = 0,
        rope_theta: float | None = 10_000.0,
        rope_layout: RopeLayout = "interleaved",
        rope_scaling: RopeScaling | None = None,
        qk_norm: bool = False,
        norm_epsilon: float = 1e-5,
        is_causal: bool = True,
        qkv_bias: bool = False,
        implementation: Implementation | Sequence[Implementation] | None = None,
        rngs: nnx.Rngs,
        keep_rngs: bool = True,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        out_kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        out_bias_metadata: Mapping[str, Any] = _NO_METADATA,
        query_ln_scale_metadata: Mapping[str, Any] = _NO_METADATA,
        key_ln_scale_metadata: Mapping[str, Any] = _NO_METADATA,
    ):
        _refuse(broadcast_dropout=broadcast_dropout, attention_fn=attention_fn)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads {num_kv_heads}: must divide num_heads {num_heads}")
        head_dim = head_dim_of(num_heads, in_features, qkv_features, head_dim)
        out_features = in_features if out_features is None else out_features
        in_kv_features = in_features if in_kv_features is None else in_kv_features
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.in_features = in_features
        self.qkv_features = num_heads * head_dim
        self.out_features = out_features
        self.in_kv_features = in_kv_features
        self.key_padding = key_padding
        self.rope_theta = rope_theta
        self.rope_layout = rope_layout
        self.rope_scaling = rope_scaling
        self.is_causal = is_causal
        self.dropout_rate = dropout_rate
        self.deterministic = deterministic
        self.implementation = hashable_implementation(implementation)

        shared: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        if qk_norm and normalize_qk:
            raise ValueError("qk_norm and normalize_qk: queries and keys have one norm; choose")
        linear = shared | {
            "use_bias": use_bias or qkv_bias,
            "precision": precision,
            "kernel_init": kernel_init,
            "bias_init": bias_init,
            "kernel_metadata": kernel_metadata,
            "bias_metadata": bias_metadata,
            "promote_dtype": qkv_promote_dtype,
        }
        out_linear = linear | {
            "use_bias": use_bias,
            "kernel_init": out_kernel_init or kernel_init,
            "bias_init": out_bias_init or bias_init,
            "kernel_metadata": out_kernel_metadata or kernel_metadata,
            "bias_metadata": out_bias_metadata or bias_metadata,
            "promote_dtype": out_promote_dtype,
        }
        self.query_proj = heads_projection(in_features, num_heads, head_dim, **linear)
        self.key_proj = heads_projection(in_kv_features, num_kv_heads, head_dim, **linear)
        self.value_proj = heads_projection(in_kv_features, num_kv_heads, head_dim, **linear)
        self.out_proj = output_projection(num_heads, head_dim, out_features, **out_linear)

        def norm(scale_metadata: Mapping[str, Any]) -> nnx.LayerNorm | nnx.RMSNorm | None:
            if qk_norm:
                return nnx.RMSNorm(head_dim, epsilon=norm_epsilon, **shared)
            if not normalize_qk:
                return None
            return nnx.LayerNorm(
                head_dim,
                use_bias=False,
                promote_dtype=ln_promote_dtype,
                scale_metadata=scale_metadata,
                **shared,
            )

        self.query_norm = norm(query_ln_scale_metadata)
        self.key_norm = norm(key_ln_scale_metadata)

        steps = mixing_steps(
            num_heads,
            pre_kq_kernel_size=pre_kq_kernel_size,
            pre_head_kernel_size=pre_head_kernel_size,
            post_kq_kernel_size=post_kq_kernel_size,
            post_head_kernel_size=post_head_kernel_size,
            key_padding=key_padding,
            mixing_init=mixing_init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        for place, step in steps.items():
            setattr(self, place, step)
        self.group_norm = (
            None
            if group_norm is None
            else GroupNorm(
                head_dim,
                scaling=group_norm,
                layer_index=layer_index,
                embed_dim=in_features,
                epsilon=norm_epsilon,
                **shared,
            )
        )
        self.rngs = rngs.dropout.fork() if keep_rngs and dropout_rate > 0.0 else None
        self.decode = decode
        self._without_cache()

    def __call__(
        self,
        inputs_q: Float[Array, "*B T D"],
        inputs_k: Float[Array, "*B S Dkv"] | None = None,
        inputs_v: Float[Array, "*B S Dkv"] | None = None,
        *,
        mask: Shaped[Array, "*#B #N #T #S"] | None = None,
        segment_ids: Int[Array, "*#B T"] | None = None,
        key_segment_ids: Int[Array, "*#B S"] | None = None,
        positions: Int[Array, "*#B T"] | None = None,
        key_positions: Int[Array, "*#B S"] | None = None,
        query_offset: int | Int[Array, ""] = 0,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
        sow_weights: bool = False,
        decode: bool | None = None,
        is_causal: bool | None = None,
    ) -> Float[Array, "*B T Do"]:
        """Attends from `inputs_q` to `inputs_k`; any number of batch axes, none too.

        Args:
          inputs_q: where the queries come from.
          inputs_k: where the keys come from; default: `inputs_q`.
          inputs_v: where the values come from; default: `inputs_k`.
          mask: true, or not zero, where a query may attend.
          segment_ids: document of each query in a packed row.
          key_segment_ids: document of each key; default: `segment_ids`.
          positions: position of each query in its document, for rotary embedding.
          key_positions: position of each key; default: `positions`.
          query_offset: where the first query stands among the keys, for causality.
          deterministic: overrides the attribute.
          rngs: random source of dropout; default: what the constructor kept.
          sow_weights: sows the `attention_weights`, under that name, for `nnx.capture`; the
            whole map is computed for it.
          decode: overrides the attribute: attend to the tokens of earlier calls, too, which
            the cache of `init_cache` has. Self-attention, without dropout.
          is_causal: overrides the attribute.

        Returns:
          The output, [..., T, out_features].

        Raises:
          ValueError: for values without keys, or shapes that do not fit.
        """
        if inputs_k is None and inputs_v is not None:
            raise ValueError("inputs_v without inputs_k: give inputs_k, or inputs_k alone for both")
        for name, inputs, width in (
            ("inputs_q", inputs_q, self.in_features),
            ("inputs_k", inputs_k, self.in_kv_features),
            ("inputs_v", inputs_v, self.in_kv_features),
        ):
            if inputs is not None and inputs.shape[-1] != width:
                raise ValueError(f"{name} has shape {inputs.shape}: expected {width} features")
        if self.decode if decode is None else decode:
            return self._decoded(
                inputs_q,
                positions,
                inputs_k=inputs_k,
                inputs_v=inputs_v,
                mask=mask,
                segment_ids=segment_ids,
                key_segment_ids=key_segment_ids,
                key_positions=key_positions,
                query_offset=None if is_zero(query_offset) else query_offset,
                sow_weights=sow_weights or None,
                is_causal=None if is_causal else is_causal,
            )
        batch = inputs_q.shape[:-2]
        where: dict[str, Any] = {
            "mask": mask_of_one_batch_axis(mask, batch),
            "segment_ids": ids_of_one_batch_axis(segment_ids, batch),
            "key_segment_ids": ids_of_one_batch_axis(key_segment_ids, batch),
            "positions": ids_of_one_batch_axis(positions, batch),
            "key_positions": ids_of_one_batch_axis(key_positions, batch),
            "query_offset": query_offset,
            "is_causal": is_causal,
        }
        q = one_batch_axis(inputs_q, 2)
        k = None if inputs_k is None else one_batch_axis(inputs_k, 2)
        v = None if inputs_v is None else one_batch_axis(inputs_v, 2)
        if sow_weights:
            weights = self.attention_weights(q, k, **where)
            weights = weights.reshape(*batch, *weights.shape[1:])
            self.sow(nnx.Intermediate, "attention_weights", weights)
        out = self.join(self.heads(q, k, v, **where, deterministic=deterministic, rngs=rngs))
        return out.reshape(*batch, *out.shape[1:])

    def heads(
        self,
        inputs_q: Float[Array, "B T D"],
        inputs_k: Float[Array, "B S Dkv"] | None = None,
        inputs_v: Float[Array, "B S Dkv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        key_segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key_positions: Int[Array, "B S"] | None = None,
        query_offset: int | Int[Array, ""] = 0,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
        is_causal: bool | None = None,
    ) -> Float[Array, "B T N H"]:
        """Each head's output, before the group norm; `join` does the rest.

        As `__call__`, with one batch axis.
        """
        is_causal = self.is_causal if is_causal is None else is_causal
        # What splits the queries of a row between devices knows only this.
        is_plain = (
            is_causal
            and inputs_k is None
            and inputs_v is None
            and mask is None
            and key_segment_ids is None
            and is_zero(query_offset)
        )
        inputs_k = inputs_q if inputs_k is None else inputs_k
        inputs_v = inputs_k if inputs_v is None else inputs_v
        q, k = self._queries_and_keys(inputs_q, inputs_k, positions, key_positions)
        v = constrain(self.value_proj(inputs_v), "batch", "length", "kv_heads", None)
        deterministic = self.deterministic if deterministic is None else deterministic
        rngs = self.rngs if rngs is None else rngs
        key = dropout_key(self.dropout_rate, deterministic, rngs)
        options: dict[str, Any] = {
            "dropout_rate": 0.0 if key is None else self.dropout_rate,
            "dropout_key": key,
            "key_padding": self.key_padding,
            "is_causal": is_causal,
            "implementation": self.implementation,
        }
        if is_plain:
            return attend_on_mesh(
                multi_token_attention,
                q,
                k,
                v,
                kernels=kernels_of(self),
                scalars={},
                heads_per_part=self._heads_that_mix(),
                segment_ids=segment_ids,
                **options,
            )
        return multi_token_attention(
            q,
            k,
            v,
            **kernels_of(self),
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            query_offset=query_offset,
            **options,
        )

    def join(self, heads: Float[Array, "B T N H"]) -> Float[Array, "B T Do"]:
        """The output of the layer from the outputs of its heads."""
        heads = heads if self.group_norm is None else self.group_norm(heads)
        return self.out_proj(constrain(heads, "batch", "length", "heads", None))

    def attention_weights(
        self,
        inputs_q: Float[Array, "B T D"],
        inputs_k: Float[Array, "B S Dkv"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        key_segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key_positions: Int[Array, "B S"] | None = None,
        query_offset: int | Int[Array, ""] = 0,
        is_causal: bool | None = None,
    ) -> Float[Array, "B N T S"]:
        """The final attention weights, after every mixing step.

        Arguments as in `__call__`, with one batch axis.

        After a convolution or mixing, rows need not sum to one and entries may be
        negative.
        """
        inputs_k = inputs_q if inputs_k is None else inputs_k
        q, k = self._queries_and_keys(inputs_q, inputs_k, positions, key_positions)
        # A fast implementation has no weights; for a look inside any will do.
        return multi_token_attention_weights(
            q,
            k,
            **kernels_of(self),
            key_padding=self.key_padding,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            is_causal=self.is_causal if is_causal is None else is_causal,
            query_offset=query_offset,
        )

    def _queries_and_keys(
        self, inputs_q: Array, inputs_k: Array, positions: Array | None, key_positions: Array | None
    ) -> tuple[Array, Array]:
        q = constrain(self.query_proj(inputs_q), "batch", "length", "heads", None)
        k = constrain(self.key_proj(inputs_k), "batch", "length", "kv_heads", None)
        return rotate(
            q if self.query_norm is None else self.query_norm(q),
            k if self.key_norm is None else self.key_norm(k),
            positions=positions,
            key_positions=key_positions,
            theta=self.rope_theta,
            layout=self.rope_layout,
            scaling=self.rope_scaling,
        )

    def _heads_that_mix(self) -> int:
        """The smallest number of neighbouring heads that both mixing steps keep together."""
        sizes = [mix.kernel.shape[1] for mix in (self.pre_head, self.post_head) if mix is not None]
        return math.lcm(*sizes)


def _refuse(*, broadcast_dropout: bool, attention_fn: Any) -> None:
    """Raises ValueError for what Flax's class can do and this one cannot."""
    if broadcast_dropout:
        raise ValueError(
            "broadcast_dropout True: must be False; every batch element and head draws its own"
        )
    if attention_fn is not None:
        raise ValueError(
            f"attention_fn {attention_fn}: must be None, for this class is the attention; "
            "nnx.MultiHeadAttention takes attention_fn=MultiTokenAttentionFn(...)"
        )
