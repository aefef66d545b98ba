"""Attention to the tokens of earlier calls, through a cache.

The cache goes in and comes out (`extend`), or the module keeps it, by the protocol of
`flax.nnx.MultiHeadAttention`: ``decode=True``, `init_cache` with the shape of the longest
inputs, and then inputs piece by piece.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.arguments import ids_of_one_batch_axis, one_batch_axis
from mta_jax.layers.cache import AttentionCache
from mta_jax.layers.mixing import kernels_of
from mta_jax.ops.multi_token_attention import (
    cached_multi_token_attention,
    multi_token_attention,
    num_past_queries,
)
from mta_jax.typing import Array, DTypeLike, Float, Int, KeyPadding


class DecodingModule(nnx.Module):
    """What `MultiTokenAttention` does with a cache.

    Attributes:
      cached_key: keys of the tokens so far, [B, K, H, S].
      cached_value: their values, [B, K, S, H].
      cached_query: the last queries, those that kernels reach, [B, R, N, H].
      cache_index: how many tokens there are.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    is_causal: bool
    key_padding: KeyPadding
    implementation: Any
    key_proj: Any
    value_proj: Any
    join: Callable[[Array], Array]
    _queries_and_keys: Callable[..., tuple[Array, Array]]

    def _without_cache(self) -> None:
        """To be called by the constructor: there is no cache until `init_cache`."""
        self.cached_key = nnx.data(None)
        self.cached_value = nnx.data(None)
        self.cached_query = nnx.data(None)
        self.cache_index = nnx.data(None)

    def empty_cache(self, batch_size: int, capacity: int) -> AttentionCache:
        """A cache with room for so many tokens of each sequence, for `extend`."""
        kernels = kernels_of(self)
        return AttentionCache.empty(
            batch_size,
            capacity,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            num_past_queries=num_past_queries(kernels["pre_kq_kernel"], kernels["post_kq_kernel"]),
            dtype=self.key_proj.dtype or self.key_proj.param_dtype,
        )

    def extend(
        self,
        inputs: Float[Array, "B T D"],
        cache: AttentionCache,
        *,
        starts: Int[Array, "B"],
        counts: Int[Array, "B"],
        positions: Int[Array, "B T"],
        window: int | None = None,
        from_empty: bool = False,
    ) -> tuple[Float[Array, "B T Do"], AttentionCache]:
        """Causal self-attention of new tokens to themselves and those of a cache.

        The outputs are those of `__call__` for all tokens together, at the new ones; NaN for a
        sequence that the cache has no room for.

        Args:
          inputs: the new tokens; those of a sequence beyond its count are padding, whose
            outputs mean nothing.
          cache: the tokens before them.
          starts: how many of those each sequence has.
          counts: how many new tokens each sequence has, at least 0.
          positions: of the new tokens, for rotary embedding.
          window: tokens that a query sees, itself included; None: all before it.
          from_empty: whether the cache is empty and there is no window; then attention is
            that of `__call__`, and as fast.

        Raises:
          ValueError: where attention is not causal.
        """
        if not self.is_causal:
            raise ValueError("is_causal False: attention to later tokens cannot be extended")
        q, k = self._queries_and_keys(inputs, inputs, positions, None)
        v = self.value_proj(inputs)
        past = cache.query
        cache = cache.appended(q, k, v, starts=starts, counts=counts)
        options: dict[str, Any] = {**kernels_of(self), "key_padding": self.key_padding}
        if from_empty:
            heads = multi_token_attention(q, k, v, implementation=self.implementation, **options)
        else:
            heads = cached_multi_token_attention(
                q, past, cache.key, cache.value, starts=starts, window=window, **options
            )
        out = cache.nan_without_room(self.join(heads), starts=starts, counts=counts)
        return out, cache

    def init_cache(self, input_shape: Sequence[int], dtype: DTypeLike | None = None) -> None:
        """Makes an empty cache, or empties the one there is.

        Args:
          input_shape: of all inputs together, [..., S, D].
          dtype: of the cache; default: that of the computation.
        """
        *batch, length, _ = input_shape
        cache = self.empty_cache(math.prod(batch), length)
        if dtype is not None:
            cache = jax.tree.map(lambda x: x.astype(dtype), cache)
        self.cached_key = nnx.Cache(cache.key)
        self.cached_value = nnx.Cache(cache.value)
        self.cached_query = nnx.Cache(cache.query)
        self.cache_index = nnx.Cache(jnp.zeros((), jnp.int32))

    def _decoded(
        self,
        inputs: Float[Array, "*B T D"],
        positions: Int[Array, "*#B T"] | None,
        **refused: Any,
    ) -> Float[Array, "*B T Do"]:
        """Attention of the next inputs, which the cache has afterwards.

        Raises:
          ValueError: for arguments that a cache knows nothing of, and where there is no cache,
            it is of another batch, or it has no room; under `jax.jit` the last gives NaN.
        """
        for name, value in refused.items():
            if value is not None:
                raise ValueError(
                    f"{name} with decode: a query attends to every token up to its own"
                )
        if self.cached_key is None:
            raise ValueError("decode without a cache: call init_cache first")
        cache = AttentionCache(self.cached_key[...], self.cached_value[...], self.cached_query[...])
        *batch, length, _ = inputs.shape
        rows = one_batch_axis(inputs, 2)
        if rows.shape[0] != cache.key.shape[0]:
            raise ValueError(
                f"inputs_q has shape {inputs.shape}: the cache is of {cache.key.shape[0]} rows"
            )
        index = self.cache_index[...]
        if not isinstance(index, jax.core.Tracer) and int(index) + length > cache.capacity:
            raise ValueError(
                f"{length} more tokens: the cache has {int(index)} of {cache.capacity}; "
                "init_cache with a longer shape"
            )
        each = jnp.ones((rows.shape[0],), jnp.int32)
        where = ids_of_one_batch_axis(positions, tuple(batch))
        out, cache = self.extend(
            rows,
            cache,
            starts=index * each,
            counts=length * each,
            positions=index + jnp.arange(length) * each[:, None] if where is None else where,
        )
        self.cached_key[...] = cache.key
        self.cached_value[...] = cache.value
        self.cached_query[...] = cache.query
        self.cache_index[...] = index + length
        return out.reshape(*batch, *out.shape[1:])
