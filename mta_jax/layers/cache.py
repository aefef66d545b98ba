"""What attention layers keep of the tokens before, for decoding.

Keys are stored as columns, ``[B, K, H, S]``, and values as rows, ``[B, K, S, Hv]``: the
products of one or a few queries with them are fast so. All methods return new caches;
under `jax.jit` with donated buffers nothing is copied.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, DTypeLike, Float, Int

Stored = TypeVar("Stored", bound="_Stored")


class _Stored:
    """A dataclass of arrays, some of which are by position."""

    _axes: ClassVar[Mapping[str, int]]
    """The axis of the position of each that is, the batch not counted."""

    @property
    def capacity(self) -> int:
        """S: positions there is room for."""
        name, axis = next(iter(self._axes.items()))
        return getattr(self, name).shape[axis + 1]

    def grown(self: Stored, capacity: int) -> Stored:
        """With room for more positions."""

        def grow(x: Array, axis: int) -> Array:
            widths = [(0, 0)] * x.ndim
            widths[axis + 1] = (0, capacity - x.shape[axis + 1])
            return jnp.pad(x, widths)

        return self._mapped(grow)

    def shifted(self: Stored, drop: Int[Array, "B"]) -> Stored:
        """Without the first positions of each sequence, so that there is room at the end."""

        def shift(x: Array, axis: int) -> Array:
            return jax.vmap(lambda x, drop: jnp.roll(x, -drop, axis=axis))(x, drop)

        return self._mapped(shift)

    def nan_without_room(
        self,
        out: Float[Array, "B T D"],
        *,
        starts: Int[Array, "B"],
        counts: Int[Array, "B"],
    ) -> Float[Array, "B T D"]:
        """NaN for sequences whose tokens do not fit, since nothing can be raised in a program."""
        return jnp.where((starts + counts <= self.capacity)[:, None, None], out, jnp.nan)

    def _mapped(self: Stored, function: Callable[[Array, int], Array]) -> Stored:
        changes = {name: function(getattr(self, name), axis) for name, axis in self._axes.items()}
        # Every class below is a dataclass, which a type of theirs cannot say.
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def _with_tokens(
        self, new: Mapping[str, Array], starts: Int[Array, "B"], counts: Int[Array, "B"]
    ) -> dict[str, Array]:
        """Arrays by name with new tokens, which come as ``[B, T, heads, size]``."""
        written = {}
        for name, axis in self._axes.items():
            stored = getattr(self, name)
            tokens = jnp.moveaxis(new[name].astype(stored.dtype), 1, axis + 1)
            written[name] = _written(stored, tokens, starts, counts, axis)
        return written


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionCache(_Stored):
    """Keys, values and the last queries of one layer of multi-token attention.

    Attributes:
      key: keys by position, rotary embedding applied.
      value: values by position.
      query: the last R queries of each sequence, which kernels still reach
        (`num_past_queries`), the newest last. Ordinary attention keeps none.
    """

    key: Float[Array, "B K H S"]
    value: Float[Array, "B K S Hv"]
    query: Float[Array, "B R N H"]

    _axes = MappingProxyType({"key": 2, "value": 1})

    @property
    def num_past_queries(self) -> int:
        """R."""
        return self.query.shape[1]

    @classmethod
    def empty(
        cls,
        batch_size: int,
        capacity: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        num_past_queries: int,
        dtype: DTypeLike,
    ) -> "AttentionCache":
        """A cache of nothing."""
        return cls(
            key=jnp.zeros((batch_size, num_kv_heads, head_dim, capacity), dtype),
            value=jnp.zeros((batch_size, num_kv_heads, capacity, head_dim), dtype),
            query=jnp.zeros((batch_size, num_past_queries, num_heads, head_dim), dtype),
        )

    def appended(
        self,
        query: Float[Array, "B T N H"],
        key: Float[Array, "B T K H"],
        value: Float[Array, "B T K Hv"],
        *,
        starts: Int[Array, "B"],
        counts: Int[Array, "B"],
    ) -> "AttentionCache":
        """With new tokens.

        Args:
          query: their queries.
          key: their keys.
          value: their values.
          starts: position of the first of each sequence.
          counts: how many of them each sequence has, from the first; the others are
            padding.
        """
        written = self._with_tokens({"key": key, "value": value}, starts, counts)
        return AttentionCache(**written, query=_last_rows(self.query, query, counts))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DifferentialCache(_Stored):
    """Keys of both heads of each pair, and values, of one layer of differential attention."""

    first_key: Float[Array, "B Kv H S"]
    second_key: Float[Array, "B Kv H S"]
    value: Float[Array, "B Kv S Hv"]

    _axes = MappingProxyType({"first_key": 2, "second_key": 2, "value": 1})
    num_past_queries: ClassVar[int] = 0

    @classmethod
    def empty(
        cls,
        batch_size: int,
        capacity: int,
        *,
        num_kv_heads: int,
        head_dim: int,
        dtype: DTypeLike,
    ) -> "DifferentialCache":
        """A cache of nothing; `num_kv_heads` counts both of a pair."""
        num_pairs = num_kv_heads // 2
        return cls(
            first_key=jnp.zeros((batch_size, num_pairs, head_dim, capacity), dtype),
            second_key=jnp.zeros((batch_size, num_pairs, head_dim, capacity), dtype),
            value=jnp.zeros((batch_size, num_pairs, capacity, 2 * head_dim), dtype),
        )

    def appended(
        self,
        key: Float[Array, "B T K H"],
        value: Float[Array, "B T Kv Hv"],
        *,
        starts: Int[Array, "B"],
        counts: Int[Array, "B"],
    ) -> "DifferentialCache":
        """With new tokens; arguments as of `AttentionCache.appended`."""
        new = {"first_key": key[:, :, 0::2], "second_key": key[:, :, 1::2], "value": value}
        return DifferentialCache(**self._with_tokens(new, starts, counts))


def _written(
    stored: Array, new: Array, starts: Int[Array, "B"], counts: Int[Array, "B"], axis: int
) -> Array:
    """Writes the first `counts` of new tokens at `starts` of each sequence.

    What would stand behind the last position is not written: the caller makes room.

    Args:
      stored: by position on `axis`.
      new: the same with T positions.
      starts: where the first new token goes.
      counts: how many of the new tokens there are.
      axis: of the positions, the batch not counted.
    """
    if new.shape[axis + 1] == 1 and target_platform() == "cpu":
        return _with_token(stored, new, starts, counts, axis)
    stored, new = jnp.moveaxis(stored, axis + 1, 1), jnp.moveaxis(new, axis + 1, 1)
    token = jnp.arange(new.shape[1])
    places = jnp.where(token < counts[:, None], starts[:, None] + token, stored.shape[1])
    sequence = jnp.arange(new.shape[0])[:, None]
    stored = stored.at[sequence, places].set(new, mode="drop")
    return jnp.moveaxis(stored, 1, axis + 1)


def _with_token(stored: Array, new: Array, starts: Array, counts: Array, axis: int) -> Array:
    """`_written` of one token each: in place, where XLA's CPU compiler copies all."""

    def write_one(sequence: Array, stored: Array) -> Array:
        index = [sequence] + [0] * (stored.ndim - 1)
        own = lax.dynamic_slice_in_dim(new, sequence, 1)
        index[axis + 1] = starts[sequence]
        is_new = (counts[sequence] > 0) & (starts[sequence] < stored.shape[axis + 1])
        # Where there is none, what is there is written again.
        own = jnp.where(is_new, own, lax.dynamic_slice(stored, index, own.shape))
        return lax.dynamic_update_slice(stored, own, index)

    # As many turns as XLA cannot know: one it would unroll, and then copy all of it, too.
    num_written = jnp.max(jnp.where(counts > 0, jnp.arange(counts.shape[0]) + 1, 0))
    return lax.fori_loop(0, num_written, write_one, stored)


def _last_rows(
    past: Float[Array, "B R N H"], new: Float[Array, "B T N H"], counts: Int[Array, "B"]
) -> Float[Array, "B R N H"]:
    """The last rows up to the last that counts, of each sequence."""
    rows = jnp.concatenate([past, new.astype(past.dtype)], axis=1)
    last = counts[:, None] + jnp.arange(past.shape[1])
    return jnp.take_along_axis(rows, last[:, :, None, None], axis=1)
