"""Multi-token attention as the `attention_fn` of Flax's own attention classes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as flax_promote_dtype
from flax.typing import PrecisionLike

from mta_jax.layers.arguments import (
    dropout_key,
    hashable_implementation,
    ids_of_one_batch_axis,
    mask_of_one_batch_axis,
    one_batch_axis,
)
from mta_jax.layers.group_norm import GroupNorm, GroupNormScaling
from mta_jax.layers.initializers import KernelInit
from mta_jax.layers.mixing import kernels_of, mixing_steps
from mta_jax.ops.multi_token_attention import (
    Implementation,
    multi_token_attention,
    multi_token_attention_weights,
)
from mta_jax.typing import Array, DropoutKey, DTypeLike, Float, Int, KeyPadding, Shaped


class MultiTokenAttentionFn(nnx.Module):
    """The mixing kernels of one layer, callable like `flax.nnx.dot_product_attention`.

    For `flax.nnx.MultiHeadAttention(attention_fn=...)` and modules that call an attention
    function as it does. Kernels that start as identities leave the model as it is.

    Flax's protocol says nothing about packed documents but their mask, which keeps
    attention within a document and not the kernels: give `segment_ids` to the call.

    Args:
      num_heads: N, query heads.
      pre_kq_kernel_size: (Cq, Ck) of the convolution of the logits, or None.
      pre_head_kernel_size: heads per group for mixing the logits, "all", or None.
      post_kq_kernel_size: as above, of the attention weights.
      post_head_kernel_size: as above, of the attention weights.
      key_padding: where key-query kernels reach on the key axis.
      mixing_init: how the mixing kernels start.
      group_norm: scaling of a group norm of each head's output, as in the paper, or None.
      head_dim: H of the values, for `group_norm`.
      embed_dim: width of the model, for `group_norm` "gate".
      layer_index: position of the layer, for `group_norm` "depth".
      norm_epsilon: added to the mean square in the group norm.
      param_dtype: dtype of the parameters.
      implementation: see `mta_jax.ops.multi_token_attention`.
      rngs: source of the `params` keys.

    Raises:
      ValueError: for sizes that do not fit together.

    Example:
      >>> attention = nnx.MultiHeadAttention(
      ...     num_heads=4,
      ...     in_features=32,
      ...     decode=False,
      ...     attention_fn=MultiTokenAttentionFn(num_heads=4, rngs=nnx.Rngs(1)),
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> attention(jnp.ones((2, 16, 32)), is_causal=True).shape
      (2, 16, 32)
    """

    def __init__(
        self,
        num_heads: int,
        *,
        pre_kq_kernel_size: tuple[int, int] | None = (6, 11),
        pre_head_kernel_size: int | Literal["all"] | None = "all",
        post_kq_kernel_size: tuple[int, int] | None = (6, 11),
        post_head_kernel_size: int | Literal["all"] | None = "all",
        key_padding: KeyPadding = "both",
        mixing_init: KernelInit = "identity",
        group_norm: GroupNormScaling | None = None,
        head_dim: int | None = None,
        embed_dim: int | None = None,
        layer_index: int = 0,
        norm_epsilon: float = 1e-5,
        param_dtype: DTypeLike = jnp.float32,
        implementation: Implementation | Sequence[Implementation] | None = None,
        rngs: nnx.Rngs,
    ):
        if group_norm is not None and head_dim is None:
            raise ValueError(f"group_norm {group_norm!r} without head_dim: its weight needs it")
        self.key_padding = key_padding
        self.implementation = hashable_implementation(implementation)
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
                head_dim or 1,
                scaling=group_norm,
                layer_index=layer_index,
                embed_dim=embed_dim,
                epsilon=norm_epsilon,
                param_dtype=param_dtype,
                rngs=rngs,
            )
        )

    def __call__(
        self,
        query: Float[Array, "*B T N H"],
        key: Float[Array, "*B S K H"],
        value: Float[Array, "*B S K Hv"],
        bias: Any = None,
        mask: Shaped[Array, "*#B #N #T #S"] | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: DropoutKey | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: DTypeLike | None = None,
        precision: PrecisionLike = None,
        module: Any = None,
        promote_dtype: Callable[..., Any] = flax_promote_dtype,
        is_causal: bool = False,
        *,
        segment_ids: Int[Array, "*#B T"] | None = None,
        key_segment_ids: Int[Array, "*#B S"] | None = None,
        force_fp32_for_softmax: bool = True,
        qk_attn_weights_einsum: Any = None,
        attn_weights_value_einsum: Any = None,
    ) -> Float[Array, "*B T N Hv"]:
        """Attends as `flax.nnx.dot_product_attention` does, with the kernels.

        Args:
          query: queries, rotated if they are to be.
          key: keys, rotated if they are to be; K may divide N.
          value: values.
          bias: must be None.
          mask: true, or not zero, where a query may attend; causal models give it here or
            by `is_causal`.
          broadcast_dropout: must be False where dropout is on: every batch element and head
            draws its own.
          dropout_rng: key of dropout.
          dropout_rate: rate of dropout.
          deterministic: turns dropout off.
          dtype: dtype of the computation; default: that of the inputs.
          precision: any will do: float32 is computed in full precision.
          module: where to sow the attention weights; the whole map is computed for it.
          promote_dtype: how dtypes are promoted.
          is_causal: query i sees keys j <= i only.
          segment_ids: document of each query in a packed row.
          key_segment_ids: document of each key; default: `segment_ids`.
          force_fp32_for_softmax: either will do: softmax is float32.
          qk_attn_weights_einsum: must be None.
          attn_weights_value_einsum: must be None.

        Returns:
          Each head's output, [..., T, N, Hv].

        Raises:
          ValueError: for what cannot be honoured, naming it.
        """
        for name, given in (
            ("bias", bias),
            ("qk_attn_weights_einsum", qk_attn_weights_einsum),
            ("attn_weights_value_einsum", attn_weights_value_einsum),
        ):
            if given is not None:
                raise ValueError(f"{name}: must be None; multi-token attention has no place for it")
        drop = dropout_key(dropout_rate, deterministic, dropout_rng)
        if drop is not None and broadcast_dropout:
            raise ValueError(
                "broadcast_dropout True: must be False; every batch element and head draws its own"
            )
        self._check_queries(query.shape[-3], key.shape[-3])
        query, key, value = promote_dtype((query, key, value), dtype=dtype)
        batch = query.shape[:-3]
        q, k, v = (one_batch_axis(x, 3) for x in (query, key, value))
        options: dict[str, Any] = {
            **kernels_of(self),
            "mask": mask_of_one_batch_axis(mask, batch),
            "segment_ids": ids_of_one_batch_axis(segment_ids, batch),
            "key_segment_ids": ids_of_one_batch_axis(key_segment_ids, batch),
            "is_causal": is_causal,
            "key_padding": self.key_padding,
        }
        if module is not None:
            weights = multi_token_attention_weights(q, k, **options)
            collection = nnx.Intermediate if isinstance(module, nnx.Module) else "intermediates"
            weights = weights.reshape(*batch, *weights.shape[1:])
            module.sow(collection, "attention_weights", weights)
        out = multi_token_attention(
            q,
            k,
            v,
            **options,
            dropout_rate=0.0 if drop is None else dropout_rate,
            dropout_key=drop,
            implementation=self.implementation,
        )
        if self.group_norm is not None:
            out = self.group_norm(out).astype(out.dtype)
        return out.reshape(*batch, *out.shape[1:])

    def _check_queries(self, num_queries: int, num_keys: int) -> None:
        """Refuses one query of several, which a decoding cache of Flax's kind gives."""
        reach = max(
            (step.kernel.shape[1] for step in (self.pre_kq, self.post_kq) if step is not None),
            default=1,
        )
        if num_queries == 1 < num_keys and reach > 1:
            raise ValueError(
                f"1 query over {num_keys} keys with a kernel of {reach} queries: a decoding cache "
                "of Flax's kind keeps no earlier queries, which the kernel needs; decode with "
                "MultiTokenAttention, or take kernel sizes (1, Ck)"
            )
