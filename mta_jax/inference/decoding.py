"""The compiled parts of generation: reading prompts, and writing tokens one by one.

Shapes decide what is compiled, so that they are few: lengths come in `bucket` sizes, and
how many tokens are written is no shape.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from mta_jax.inference.sampling import draw
from mta_jax.ops.masks import MASK_VALUE
from mta_jax.typing import Array, Bool, Float, Int

SMALLEST_BUCKET = 64


def bucket(length: int) -> int:
    """The next size from 64, 96, 128, 192, 256, 384, ...: at most half more than asked for."""
    size = SMALLEST_BUCKET
    while size < length:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return size


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Written:
    """Sequences that are being written.

    Attributes:
      cache: every token but the last of each.
      token: the last, which was drawn and not read yet.
      log_prob: its log-probability.
      keys: random key of each sequence. The n-th token of one depends on it and n alone.
      index: how many tokens have been drawn.
      is_done: which have ended; they are not read or drawn any further.
      seen: tokens that each has, where the sampling asks; else None.
    """

    cache: Any
    token: Int[Array, "B"]
    log_prob: Float[Array, "B"]
    keys: Array
    index: Int[Array, ""]
    is_done: Bool[Array, "B"]
    seen: Bool[Array, "B V"] | None


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("capacity", "window"), donate_argnames="cache"
)
def read(
    graphdef: nnx.GraphDef,
    params: Any,
    tokens: Int[Array, "B T"],
    counts: Int[Array, "B"],
    cache: Any = None,
    *,
    capacity: int = 0,
    window: int | None = None,
) -> tuple[Float[Array, "B V"], Any]:
    """Reads a chunk of each sequence.

    Args:
      graphdef: structure of the model.
      params: its parameters.
      tokens: the chunk; tokens beyond a sequence's count are padding.
      counts: tokens of the chunk that each sequence has.
      cache: what was read before; used up. None: nothing.
      capacity: room of the cache, where there is none yet.
      window: tokens that attention sees; None: all.

    Returns:
      Logits after the last token of each sequence, of no meaning where there is none, and
      the cache.
    """
    model = nnx.merge(graphdef, params)
    is_first = cache is None
    if is_first:
        cache = model.empty_cache(tokens.shape[0], capacity)
    features, cache = model.extend(
        tokens,
        cache,
        counts=counts,
        from_empty=is_first,
        # No query of the first chunk sees less than all of it.
        window=None if is_first else window,
    )
    last = jnp.maximum(counts - 1, 0)[:, None, None]
    return model.logits(jnp.take_along_axis(features, last, axis=1)[:, 0]), cache


@functools.partial(jax.jit, static_argnums=1)
def grow(cache: Any, capacity: int) -> Any:
    """The cache with room for more tokens."""
    return cache.grown(capacity)


@functools.partial(jax.jit, static_argnums=1, donate_argnums=0)
def shift(cache: Any, keep: int) -> Any:
    """The cache, which is used up, with the last tokens only."""
    return cache.shifted(keep)


@functools.partial(jax.jit, static_argnames=("num_tokens",))
def begin(
    logits: Float[Array, "B V"],
    cache: Any,
    keys: Array,
    seen: Bool[Array, "B V"] | None,
    settings: Mapping[str, Any],
    *,
    num_tokens: int,
) -> Written:
    """Draws the first token of each sequence.

    Args:
      logits: after the prompts.
      cache: of the prompts.
      keys: random key of each sequence.
      seen: tokens of the prompts, where there is a repetition penalty.
      settings: `Sampling.settings`.
      num_tokens: tokens that may be drawn; a model may have more than its tokenizer.
    """
    token, log_prob, seen = _drawn(logits, settings, keys, 0, seen, num_tokens)
    is_done = jnp.zeros(token.shape, bool)
    return Written(cache, token, log_prob, keys, jnp.asarray(1), is_done, seen)


@functools.partial(
    jax.jit,
    static_argnums=0,
    static_argnames=("block", "num_tokens", "window"),
    donate_argnames="written",
)
def write(
    graphdef: nnx.GraphDef,
    params: Any,
    written: Written,
    settings: Mapping[str, Any],
    limit: int | Int[Array, ""],
    eos_id: int | Int[Array, ""],
    *,
    block: int,
    num_tokens: int,
    window: int | None = None,
) -> tuple[Int[Array, "B block"], Float[Array, "B block"], Written]:
    """Writes up to `limit` tokens of each sequence, the pending one first.

    Args:
      graphdef: structure of the model.
      params: its parameters.
      written: the sequences; used up.
      settings: `Sampling.settings`.
      limit: most tokens to write, at most `block`.
      eos_id: token that ends a sequence. It is written, too.
      block: size of the result.
      num_tokens: tokens that may be drawn.
      window: tokens that attention sees; None: all.

    Returns:
      The tokens, their log-probabilities, and the sequences after them. Rows end with their
      end token or the limit; what stands behind has no meaning.
    """
    model = nnx.merge(graphdef, params)
    batch = written.token.shape[0]
    tokens = jnp.zeros((batch, block), jnp.int32)
    log_probs = jnp.zeros((batch, block), jnp.float32)

    def goes_on(carry: tuple[Array, Array, Array, Written]) -> Array:
        step, _, _, written = carry
        return (step < limit) & ~jnp.all(written.is_done)

    def write_one(
        carry: tuple[Array, Array, Array, Written],
    ) -> tuple[Array, Array, Array, Written]:
        step, tokens, log_probs, written = carry
        tokens = tokens.at[:, step].set(written.token)
        log_probs = log_probs.at[:, step].set(written.log_prob)
        is_done = written.is_done | (written.token == eos_id)
        features, cache = model.extend(
            written.token[:, None],
            written.cache,
            counts=(~is_done).astype(jnp.int32),
            window=window,
        )
        token, log_prob, seen = _drawn(
            model.logits(features[:, 0]),
            settings,
            written.keys,
            written.index,
            written.seen,
            num_tokens,
        )
        following = Written(cache, token, log_prob, written.keys, written.index + 1, is_done, seen)
        return step + 1, tokens, log_probs, following

    start = (jnp.asarray(0), tokens, log_probs, written)
    _, tokens, log_probs, written = lax.while_loop(goes_on, write_one, start)
    return tokens, log_probs, written


def _drawn(
    logits: Array,
    settings: Mapping[str, Any],
    keys: Array,
    index: int | Array,
    seen: Array | None,
    num_tokens: int,
) -> tuple[Array, Array, Array | None]:
    """The tokens of one step, their log-probabilities, and what has been seen with them."""
    logits = jnp.where(jnp.arange(logits.shape[-1]) < num_tokens, logits, MASK_VALUE)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
    token, log_prob = draw(logits, settings, keys, seen)
    token = token.astype(jnp.int32)
    if seen is not None:
        seen = seen.at[jnp.arange(token.shape[0]), token].set(True)
    return token, log_prob, seen
