"""Flax's protocol of decoding: a module that keeps a cache of its own.

`flax.nnx.MultiHeadAttention` takes ``decode=True``, `init_cache` with the shape of the
longest inputs, and then inputs piece by piece. This is the same for a module with
`empty_cache` and `extend`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mta_jax.layers.arguments import ids_of_one_batch_axis, one_batch_axis
from mta_jax.layers.cache import AttentionCache
from mta_jax.typing import Array, DTypeLike, Float, Int


class DecodingModule(nnx.Module):
    """A base of modules with `empty_cache` and `extend`, as `MultiTokenAttention` has them.

    Attributes:
      cached_key: keys of the tokens so far, [B, K, H, S].
      cached_value: their values, [B, K, S, H].
      cached_query: the last queries, those that kernels reach, [B, R, N, H].
      cache_index: how many tokens there are.
    """

    empty_cache: Any
    extend: Any

    def _without_cache(self) -> None:
        """To be called by the constructor: there is no cache until `init_cache`."""
        self.cached_key = nnx.data(None)
        self.cached_value = nnx.data(None)
        self.cached_query = nnx.data(None)
        self.cache_index = nnx.data(None)

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
        self, inputs: Float[Array, "*B T D"], positions: Int[Array, "*#B T"] | None
    ) -> Float[Array, "*B T Do"]:
        """Attention of the next inputs, which the cache has afterwards.

        Raises:
          ValueError: where there is no cache, it is of another batch, or it has no room; under
            `jax.jit` the last gives NaN instead.
        """
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
        out = jnp.where(index + length <= cache.capacity, out, jnp.nan)
        return out.reshape(*batch, *out.shape[1:])
