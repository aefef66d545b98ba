"""Differential attention as a Flax module: one of the paper's baselines."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.arguments import default_head_dim, dropout_key, hashable_implementation
from mta_jax.layers.cache import DifferentialCache
from mta_jax.layers.group_norm import GroupNorm, lambda_init
from mta_jax.layers.projections import heads_projection, output_projection, rotate
from mta_jax.ops.differential_attention import (
    cached_differential_attention,
    differential_attention,
    differential_attention_weights,
)
from mta_jax.ops.multi_token_attention import Implementation
from mta_jax.ops.rope import RopeLayout
from mta_jax.parallel.attention import attend_on_mesh
from mta_jax.parallel.rules import constrain
from mta_jax.typing import Array, DropoutKey, DTypeLike, Float, Int


class DifferentialAttention(nnx.Module):
    """Differential Transformer attention (https://arxiv.org/abs/2410.05258, section 2).

    Pairs of heads subtract their attention maps and share one value of twice the
    head size, so that `num_heads` here and in an ordinary Transformer cost the same
    parameters; the number of output heads is half of it. The weight of the
    subtracted map is ``exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init(layer)``.

    Args:
      num_heads: heads of queries; even.
      in_features: D, width of inputs and output.
      num_kv_heads: heads of keys, even, divides `num_heads`; default: `num_heads`.
      head_dim: H; default: ``in_features // num_heads``.
      layer_index: position of the layer; sets ``lambda_init`` and the depth factor.
      rope_theta: base of the rotary embedding; None for no rotary embedding.
      rope_layout: which features form a rotary pair.
      norm_epsilon: added to the mean square in the group norm.
      dropout_rate: dropout on the difference of the maps.
      deterministic: turns dropout off; `model.eval()` sets it.
      dtype: dtype of the computation.
      implementation: see `mta_jax.ops.multi_token_attention`.
      param_dtype: dtype of the parameters.
      rngs: source of the `params` keys.

    Raises:
      ValueError: for odd numbers of heads.

    Example:
      >>> attention = DifferentialAttention(num_heads=4, in_features=32, rngs=nnx.Rngs(0))
      >>> attention(jnp.ones((2, 16, 32))).shape
      (2, 16, 32)
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        layer_index: int = 0,
        rope_theta: float | None = 10_000.0,
        rope_layout: RopeLayout = "interleaved",
        norm_epsilon: float = 1e-5,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        implementation: Implementation | Sequence[Implementation] | None = None,
        rngs: nnx.Rngs,
    ):
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads % 2 or num_kv_heads % 2 or num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads {num_heads}, num_kv_heads {num_kv_heads}: differential attention "
                "needs both even, the second dividing the first"
            )
        if head_dim is None:
            head_dim = default_head_dim(in_features, num_heads)
        self.rope_theta = rope_theta
        self.rope_layout = rope_layout
        self.dropout_rate = dropout_rate
        self.deterministic = deterministic
        self.implementation = hashable_implementation(implementation)
        self.lambda_init = lambda_init(layer_index)

        linear: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.query_proj = heads_projection(in_features, num_heads, head_dim, **linear)
        self.key_proj = heads_projection(in_features, num_kv_heads, head_dim, **linear)
        self.value_proj = heads_projection(in_features, num_kv_heads // 2, 2 * head_dim, **linear)
        self.out_proj = output_projection(num_heads // 2, 2 * head_dim, in_features, **linear)
        self.group_norm = GroupNorm(
            2 * head_dim,
            scaling="depth",
            layer_index=layer_index,
            epsilon=norm_epsilon,
            **linear,
        )

        def vector() -> nnx.Param:
            return nnx.Param(0.1 * jax.random.normal(rngs.params(), (head_dim,), param_dtype))

        self.lambda_q1, self.lambda_k1 = vector(), vector()
        self.lambda_q2, self.lambda_k2 = vector(), vector()

    def __call__(
        self,
        inputs: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None = None,
    ) -> Float[Array, "B T D"]:
        """Causal self-attention; arguments as in `MultiTokenAttention`."""
        q, k = self._queries_and_keys(inputs, positions)
        deterministic = self.deterministic if deterministic is None else deterministic
        key = dropout_key(self.dropout_rate, deterministic, rngs)
        out = attend_on_mesh(
            differential_attention,
            q,
            k,
            constrain(self.value_proj(inputs), "batch", "length", "kv_heads", None),
            kernels={},
            scalars={"lam": self._lambda()},
            heads_per_part=2,
            segment_ids=segment_ids,
            dropout_rate=0.0 if key is None else self.dropout_rate,
            dropout_key=key,
            implementation=self.implementation,
        )
        return self.out_proj(constrain(self.group_norm(out), "batch", "length", "heads", None))

    def empty_cache(self, batch_size: int, capacity: int) -> DifferentialCache:
        """A cache with room for so many tokens of each sequence, for `extend`."""
        num_kv_heads, head_dim = self.key_proj.out_features
        return DifferentialCache.empty(
            batch_size,
            capacity,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dtype=self.key_proj.dtype or self.key_proj.param_dtype,
        )

    def extend(
        self,
        inputs: Float[Array, "B T D"],
        cache: DifferentialCache,
        *,
        starts: Int[Array, "B"],
        counts: Int[Array, "B"],
        positions: Int[Array, "B T"],
        window: int | None = None,
        from_empty: bool = False,
    ) -> tuple[Float[Array, "B T D"], DifferentialCache]:
        """Attention of new tokens to themselves and those of a cache.

        As `MultiTokenAttention.extend`.
        """
        q, k = self._queries_and_keys(inputs, positions)
        v = self.value_proj(inputs)
        cache = cache.appended(k, v, starts=starts, counts=counts)
        lam = self._lambda()
        if from_empty:
            out = differential_attention(q, k, v, lam, implementation=self.implementation)
        else:
            out = cached_differential_attention(
                q,
                cache.first_key,
                cache.second_key,
                cache.value,
                lam,
                starts=starts,
                window=window,
            )
        out = self.out_proj(self.group_norm(out))
        return cache.nan_without_room(out, starts=starts, counts=counts), cache

    def attention_weights(
        self,
        inputs: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B N T T"]:
        """The difference of the maps of each pair: [B, N / 2, T, T]."""
        q, k = self._queries_and_keys(inputs, positions)
        return differential_attention_weights(q, k, self._lambda(), segment_ids=segment_ids)

    def _lambda(self) -> Float[Array, ""]:
        def product(first: nnx.Param, second: nnx.Param) -> Array:
            return jnp.exp(jnp.sum(first[...].astype(jnp.float32) * second[...]))

        learned = product(self.lambda_q1, self.lambda_k1) - product(self.lambda_q2, self.lambda_k2)
        return learned + jnp.asarray(self.lambda_init, learned.dtype)

    def _queries_and_keys(self, inputs: Array, positions: Array | None) -> tuple[Array, Array]:
        return rotate(
            constrain(self.query_proj(inputs), "batch", "length", "heads", None),
            constrain(self.key_proj(inputs), "batch", "length", "kv_heads", None),
            positions=positions,
            key_positions=None,
            theta=self.rope_theta,
            layout=self.rope_layout,
        )
