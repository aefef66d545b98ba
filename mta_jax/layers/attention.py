"""Multi-token attention as a Flax module."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.group_norm import GroupNorm, GroupNormScaling
from mta_jax.layers.initializers import KernelInit
from mta_jax.layers.mixing import HeadMixing, KeyQueryConvolution
from mta_jax.layers.projections import heads_projection, output_projection, rotate
from mta_jax.ops.multi_token_attention import (
    Implementation,
    multi_token_attention,
    multi_token_attention_weights,
)
from mta_jax.ops.rope import RopeLayout, RopeScaling
from mta_jax.parallel.attention import attend_on_mesh
from mta_jax.parallel.rules import constrain
from mta_jax.typing import Array, Bool, DropoutKey, DTypeLike, Float, Int, KeyPadding


def default_head_dim(in_features: int, num_heads: int) -> int:
    """The width of the inputs, divided among the heads.

    Raises:
      ValueError: where that leaves a rest.
    """
    if in_features % num_heads:
        raise ValueError(
            f"in_features {in_features} with {num_heads} heads: must be divisible, or give head_dim"
        )
    return in_features // num_heads


def hashable_implementation(
    implementation: Implementation | Sequence[Implementation] | None,
) -> Implementation | tuple[Implementation, ...] | None:
    """The same choice as part of a graphdef, which must be hashable."""
    if implementation is None or isinstance(implementation, str):
        return implementation
    return tuple(implementation)


def dropout_key(
    rate: float, deterministic: bool, rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None
) -> DropoutKey | None:
    """The key of one dropout draw, or None where nothing is to be dropped.

    Raises:
      ValueError: where dropout is on and there is no source of randomness.
    """
    if deterministic or rate == 0.0:
        return None
    if rngs is None:
        raise ValueError(f"dropout_rate {rate} in training: pass rngs, or deterministic=True")
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs


class MultiTokenAttention(nnx.Module):
    """Attention with convolved and mixed attention maps (https://arxiv.org/abs/2504.00927).

    Projects, applies rotary embedding, runs `mta_jax.ops.multi_token_attention`,
    normalises each head (paper section 3.3) and projects back. The argument names
    are those of `flax.nnx.MultiHeadAttention` where both have them.

    The default kernels are the paper's: 6 x 11, and mixing over all heads, before and
    after the softmax, all starting as identities, and a gated group norm. (The paper
    has the 6 x 11 kernels in every fourth layer.) With every kernel size None and
    `group_norm` None this is ordinary attention.

    Args:
      num_heads: N.
      in_features: D, width of the inputs.
      out_features: width of the output; default: `in_features`.
      num_kv_heads: K, must divide N; default: N.
      head_dim: H; default: ``in_features // num_heads``.
      pre_kq_kernel_size: (Cq, Ck) of the convolution of the logits, or None.
      pre_head_kernel_size: heads per group for mixing the logits, "all", or None.
      post_kq_kernel_size: as above, of the attention weights.
      post_head_kernel_size: as above, of the attention weights.
      key_padding: where key-query kernels reach on the key axis.
      kernel_init: how the mixing kernels start.
      group_norm: scaling of the group norm, or None for no group norm.
      layer_index: position of the layer, for `group_norm` "depth".
      rope_theta: base of the rotary embedding; None for no rotary embedding.
      rope_layout: which features form a rotary pair.
      rope_scaling: changes the wavelengths of the rotary embedding, or None.
      qk_norm: RMSNorm of each query and key before the rotary embedding, its weight [H]
        shared by the heads.
      norm_epsilon: added to the mean square in every norm.
      is_causal: queries see earlier keys only; for cross-attention usually False.
      dropout_rate: dropout on the final attention weights.
      deterministic: turns dropout off; `model.eval()` sets it.
      use_bias: biases in the four projections.
      qkv_bias: biases in those of queries, keys and values.
      dtype: dtype of the computation; default: that of inputs and parameters.
      param_dtype: dtype of the parameters.
      implementation: see `mta_jax.ops.multi_token_attention`.
      rngs: source of the `params` keys.

    Raises:
      ValueError: for sizes that do not fit together.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        out_features: int | None = None,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        pre_kq_kernel_size: tuple[int, int] | None = (6, 11),
        pre_head_kernel_size: int | Literal["all"] | None = "all",
        post_kq_kernel_size: tuple[int, int] | None = (6, 11),
        post_head_kernel_size: int | Literal["all"] | None = "all",
        key_padding: KeyPadding = "both",
        kernel_init: KernelInit = "identity",
        group_norm: GroupNormScaling | None = "gate",
        layer_index: int = 0,
        rope_theta: float | None = 10_000.0,
        rope_layout: RopeLayout = "interleaved",
        rope_scaling: RopeScaling | None = None,
        qk_norm: bool = False,
        norm_epsilon: float = 1e-5,
        is_causal: bool = True,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        use_bias: bool = False,
        qkv_bias: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        implementation: Implementation | Sequence[Implementation] | None = None,
        rngs: nnx.Rngs,
    ):
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads {num_kv_heads}: must divide num_heads {num_heads}")
        if head_dim is None:
            head_dim = default_head_dim(in_features, num_heads)
        self.key_padding = key_padding
        self.rope_theta = rope_theta
        self.rope_layout = rope_layout
        self.rope_scaling = rope_scaling
        self.is_causal = is_causal
        self.dropout_rate = dropout_rate
        self.deterministic = deterministic
        self.implementation = hashable_implementation(implementation)

        linear: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        heads_in = linear | {"use_bias": use_bias or qkv_bias}
        self.query_proj = heads_projection(in_features, num_heads, head_dim, **heads_in)
        self.key_proj = heads_projection(in_features, num_kv_heads, head_dim, **heads_in)
        self.value_proj = heads_projection(in_features, num_kv_heads, head_dim, **heads_in)
        self.out_proj = output_projection(
            num_heads,
            head_dim,
            in_features if out_features is None else out_features,
            use_bias=use_bias,
            **linear,
        )
        norm = linear | {"epsilon": norm_epsilon}
        self.query_norm = nnx.RMSNorm(head_dim, **norm) if qk_norm else None
        self.key_norm = nnx.RMSNorm(head_dim, **norm) if qk_norm else None

        def convolution(size: tuple[int, int] | None) -> KeyQueryConvolution | None:
            if size is None:
                return None
            return KeyQueryConvolution(
                num_heads,
                size,
                key_padding=key_padding,
                kernel_init=kernel_init,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        def mixing(size: int | Literal["all"] | None) -> HeadMixing | None:
            if size is None:
                return None
            return HeadMixing(
                num_heads,
                num_heads if size == "all" else size,
                kernel_init=kernel_init,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.pre_kq = convolution(pre_kq_kernel_size)
        self.pre_head = mixing(pre_head_kernel_size)
        self.post_kq = convolution(post_kq_kernel_size)
        self.post_head = mixing(post_head_kernel_size)
        self.group_norm = (
            None
            if group_norm is None
            else GroupNorm(
                head_dim,
                scaling=group_norm,
                layer_index=layer_index,
                embed_dim=in_features,
                epsilon=norm_epsilon,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
        )

    def __call__(
        self,
        inputs_q: Float[Array, "B T D"],
        inputs_k: Float[Array, "B S D"] | None = None,
        inputs_v: Float[Array, "B S D"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        key_segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key_positions: Int[Array, "B S"] | None = None,
        query_offset: int | Int[Array, ""] = 0,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
    ) -> Float[Array, "B T Do"]:
        """Attends from `inputs_q` to `inputs_k`.

        Args:
          inputs_q: where the queries come from.
          inputs_k: where the keys come from; default: `inputs_q`.
          inputs_v: where the values come from; default: `inputs_k`.
          mask: true where a query may attend.
          segment_ids: document of each query in a packed row.
          key_segment_ids: document of each key; default: `segment_ids`.
          positions: position of each query in its document, for rotary embedding.
          key_positions: position of each key; default: `positions`.
          query_offset: where the first query stands among the keys, for causality.
          deterministic: overrides the attribute.
          rngs: random source of dropout.

        Returns:
          The output, [B, T, out_features].
        """
        heads = self.heads(
            inputs_q,
            inputs_k,
            inputs_v,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            positions=positions,
            key_positions=key_positions,
            query_offset=query_offset,
            deterministic=deterministic,
            rngs=rngs,
        )
        return self.join(heads)

    def heads(
        self,
        inputs_q: Float[Array, "B T D"],
        inputs_k: Float[Array, "B S D"] | None = None,
        inputs_v: Float[Array, "B S D"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        key_segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key_positions: Int[Array, "B S"] | None = None,
        query_offset: int | Int[Array, ""] = 0,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
    ) -> Float[Array, "B T N H"]:
        """Each head's output, before the group norm; `join` does the rest. As `__call__`."""
        # What splits the queries of a row between devices knows only this.
        is_plain = (
            self.is_causal
            and inputs_k is None
            and inputs_v is None
            and mask is None
            and key_segment_ids is None
            and isinstance(query_offset, int)
            and query_offset == 0
        )
        inputs_k = inputs_q if inputs_k is None else inputs_k
        inputs_v = inputs_k if inputs_v is None else inputs_v
        q, k = self._queries_and_keys(inputs_q, inputs_k, positions, key_positions)
        v = constrain(self.value_proj(inputs_v), "batch", "length", "kv_heads", None)
        deterministic = self.deterministic if deterministic is None else deterministic
        key = dropout_key(self.dropout_rate, deterministic, rngs)
        options: dict[str, Any] = {
            "dropout_rate": 0.0 if key is None else self.dropout_rate,
            "dropout_key": key,
            "key_padding": self.key_padding,
            "is_causal": self.is_causal,
            "implementation": self.implementation,
        }
        if is_plain:
            return attend_on_mesh(
                multi_token_attention,
                q,
                k,
                v,
                kernels=self._kernels(),
                scalars={},
                heads_per_part=self._heads_that_mix(),
                segment_ids=segment_ids,
                **options,
            )
        return multi_token_attention(
            q,
            k,
            v,
            **self._kernels(),
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
        inputs_k: Float[Array, "B S D"] | None = None,
        *,
        mask: Bool[Array, "#B #N #T #S"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        key_segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key_positions: Int[Array, "B S"] | None = None,
        query_offset: int | Int[Array, ""] = 0,
    ) -> Float[Array, "B N T S"]:
        """The final attention weights, after every mixing step. Arguments as in `__call__`.

        After a convolution or mixing, rows need not sum to one and entries may be
        negative.
        """
        inputs_k = inputs_q if inputs_k is None else inputs_k
        q, k = self._queries_and_keys(inputs_q, inputs_k, positions, key_positions)
        # A fast implementation has no weights; for a look inside any will do.
        return multi_token_attention_weights(
            q,
            k,
            **self._kernels(),
            key_padding=self.key_padding,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            is_causal=self.is_causal,
            query_offset=query_offset,
        )

    def _queries_and_keys(
        self, inputs_q: Array, inputs_k: Array, positions: Array | None, key_positions: Array | None
    ) -> tuple[Array, Array]:
        q = constrain(self.query_proj(inputs_q), "batch", "length", "heads", None)
        k = constrain(self.key_proj(inputs_k), "batch", "length", "kv_heads", None)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return rotate(
            q,
            k,
            positions=positions,
            key_positions=key_positions,
            theta=self.rope_theta,
            layout=self.rope_layout,
            scaling=self.rope_scaling,
        )

    def _kernels(self) -> dict[str, Any]:
        def kernel(module: KeyQueryConvolution | HeadMixing | None) -> Array | None:
            return None if module is None else module.kernel[...]

        return {
            "pre_kq_kernel": kernel(self.pre_kq),
            "pre_head_kernel": kernel(self.pre_head),
            "post_kq_kernel": kernel(self.post_kq),
            "post_head_kernel": kernel(self.post_head),
        }

    def _heads_that_mix(self) -> int:
        """The smallest number of neighbouring heads that both mixing steps keep together."""
        sizes = [mix.kernel.shape[1] for mix in (self.pre_head, self.post_head) if mix is not None]
        return math.lcm(*sizes)
