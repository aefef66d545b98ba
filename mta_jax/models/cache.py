"""What a model keeps of the tokens before, for decoding."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mta_jax.layers.cache import AttentionCache, DifferentialCache
from mta_jax.typing import Array, Int

LayerCache = AttentionCache | DifferentialCache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The tokens of a batch of sequences, of any length each, in every layer.

    Attributes:
      layers: of each layer.
      lengths: tokens that each sequence has here.
      dropped: tokens that each had before them (`shifted`).
    """

    layers: tuple[LayerCache, ...]
    lengths: Int[Array, "B"]
    dropped: Int[Array, "B"]

    @classmethod
    def of(cls, layers: Sequence[LayerCache], batch_size: int) -> "Cache":
        """Empty, of empty layers."""
        return cls(
            tuple(layers),
            jnp.zeros((batch_size,), jnp.int32),
            jnp.zeros((batch_size,), jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """Tokens of one sequence that there is room for."""
        return self.layers[0].capacity

    @property
    def num_past_queries(self) -> int:
        """R: how many queries before a token its output depends on, in any layer."""
        return max(layer.num_past_queries for layer in self.layers)

    @property
    def room(self) -> Int[Array, "B"]:
        """How many more tokens of each sequence fit."""
        return self.capacity - self.lengths

    def with_tokens(self, layers: Sequence[LayerCache], counts: Int[Array, "B"]) -> "Cache":
        """After new tokens, which the layers have already."""
        return dataclasses.replace(self, layers=tuple(layers), lengths=self.lengths + counts)

    def grown(self, capacity: int) -> "Cache":
        """With room for more tokens.

        Raises:
          ValueError: for less room than there is.
        """
        if capacity < self.capacity:
            raise ValueError(f"capacity {capacity}: must be at least {self.capacity}")
        layers = tuple(layer.grown(capacity) for layer in self.layers)
        return dataclasses.replace(self, layers=layers)

    def shifted(self, keep: int) -> "Cache":
        """With only the last tokens, at most `keep` of each sequence.

        Positions go on counting, so that rotary embeddings keep their distances. Exact
        for a window of at most ``keep - num_past_queries`` tokens.
        """
        drop = jnp.maximum(self.lengths - keep, 0)
        return Cache(
            tuple(layer.shifted(drop) for layer in self.layers),
            self.lengths - drop,
            self.dropped + drop,
        )
