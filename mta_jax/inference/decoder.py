"""Writing on from prompts with a language model."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mta_jax.inference import decoding
from mta_jax.inference.decoding import Written, bucket
from mta_jax.inference.sampling import UNFILTERED, Sampling
from mta_jax.typing import Array, Bool, Int

Finish = Literal["end", "stop", "length"]
"""Why a text ends: the model ended the document, somebody who watched did, or it has as many
tokens as were asked for."""


# Attention to room of this many tokens that are not there yet costs less than compiling the
# program for every size on the way to it.
_ROOM = 1024


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What was written after one prompt.

    Attributes:
      tokens: new token ids, without the end token, int32 [tokens].
      log_probs: of each by the model, before any filter of the sampling, float32 [tokens].
      finish: None while it is being written.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    finish: Finish | None


Watch = Callable[[Sequence[Continuation]], Sequence[bool]]
"""Sees all continuations as they stand, and says which of them to end there."""


def rows_without_padding(
    tokens: Int[np.ndarray, "B T"], is_token: Bool[np.ndarray, "B T"]
) -> list[np.ndarray]:
    """The prompts of a batch that is padded, on the left, the right, or both.

    Raises:
      ValueError: for padding between tokens.
    """
    for number, row in enumerate(is_token):
        places = np.flatnonzero(row)
        if places.size and places[-1] - places[0] >= places.size:
            raise ValueError(f"is_token: row {number} has padding between its tokens")
    return [row[mask] for row, mask in zip(tokens, is_token, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is computed at once, and how far attention reaches."""

    chunk: int = 512
    """Prompt tokens of a sequence that are read at once; fewer take less memory."""

    block: int = 16
    """Tokens of a sequence that are written before they are shown and looked at for stop strings;
    fewer show text sooner, more write it faster."""

    window: int | None = None
    """Tokens that attention sees, older ones are forgotten; null: all."""

    def __post_init__(self) -> None:
        for name in ("chunk", "block", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """A language model that writes.

    Every new token costs the attention of one query, and of the few before it that kernels
    reach, to the keys that were kept of all tokens before.

    Attributes:
      graphdef: structure of the model, one with `empty_cache`, `extend` and `logits` as
        `mta_jax.models.Transformer` has them; its caches are as `mta_jax.models.cache.Cache`.
      params: its parameters.
      eos_id: token that ends a document.
      num_tokens: how many tokens may be written, the first of the vocabulary; a model may
        have more than its tokenizer.
      limits: see there.

    Example:
      >>> from mta_jax.models import ModelConfig, Transformer
      >>> config = ModelConfig(vocab_size=258, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=64)
      >>> graphdef, params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))
      >>> decoder = Decoder(graphdef=graphdef, params=params, eos_id=257, num_tokens=256)
      >>> (continuation,) = decoder.generate([np.array([72, 105])], max_new_tokens=4)
      >>> len(continuation.tokens)
      4
    """

    graphdef: nnx.GraphDef
    params: Any
    eos_id: int
    num_tokens: int
    limits: Limits = Limits()

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_new_tokens: int | Sequence[int],
        sampling: Sampling = UNFILTERED,
        keys: Array | None = None,
        num_samples: int = 1,
        watch: Watch | None = None,
    ) -> list[Continuation]:
        """Writes on from each prompt, all of them at once.

        What is written depends on its prompt, its key and the number of its sample, and
        not on the others beside it.

        Args:
          prompts: token ids, at least one each; of any lengths.
          max_new_tokens: most tokens to write; or a number for each prompt.
          sampling: how they are drawn.
          keys: random key of each prompt, [prompts]; None: that of seed 0.
          num_samples: continuations of each prompt.
          watch: called every `limits.block` tokens.

        Returns:
          The continuations; those of one prompt follow each other.

        Raises:
          ValueError: for an empty prompt, or numbers below 1.
        """
        if keys is None:
            keys = jnp.broadcast_to(jax.random.key(0), (len(prompts),))
        if isinstance(max_new_tokens, int):
            max_new_tokens = [max_new_tokens] * len(prompts)
        _check(prompts, max_new_tokens, num_samples, keys)
        settings = sampling.settings
        logits, cache = self.read(prompts, max(max_new_tokens))
        seen = _seen(prompts, logits.shape[-1]) if "repetition_penalty" in settings else None
        if num_samples > 1:
            logits, cache, seen = jax.tree.map(
                lambda x: jnp.repeat(x, num_samples, axis=0), (logits, cache, seen)
            )
        written = decoding.begin(
            logits,
            cache,
            _keys_of_samples(keys, num_samples),
            seen,
            settings,
            num_tokens=self.num_tokens,
        )
        rows = [_Row(most) for most in max_new_tokens for _ in range(num_samples)]
        self._write(rows, written, settings, watch)
        return [row.so_far for row in rows]

    def read(self, prompts: Sequence[np.ndarray], most: int) -> tuple[Array, Any]:
        """Reads prompts.

        Args:
          prompts: token ids, at least one each; of any lengths.
          most: new tokens that follow, for which `with_room` makes room later where it would
            cost much now.

        Returns:
          Logits after each prompt, [prompts, V], and the cache of them.
        """
        lengths = np.array([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        window = self.limits.window
        chunk = min(bucket(longest), self.limits.chunk)
        if window is not None:
            chunk = min(chunk, window)
        num_chunks = -(-longest // chunk)
        padded = np.zeros((len(prompts), num_chunks * chunk), np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt

        room = min(longest + most, _ROOM)
        capacity = bucket(chunk if window is not None else max(num_chunks * chunk, room))
        cache = logits = None
        for start in range(0, num_chunks * chunk, chunk):
            counts = np.clip(lengths - start, 0, chunk)
            found, cache = decoding.read(
                self.graphdef,
                self.params,
                padded[:, start : start + chunk],
                counts,
                None if cache is None else self.with_room(cache, chunk),
                capacity=capacity if cache is None else 0,
                window=window,
            )
            logits = found if logits is None else jnp.where(counts[:, None] > 0, found, logits)
        assert logits is not None
        return logits, cache

    def with_room(self, cache: Any, num_tokens: int) -> Any:
        """The cache with room for more tokens of each sequence."""
        needed = int(jnp.max(cache.lengths)) + num_tokens
        if needed <= cache.capacity:
            return cache
        if self.limits.window is None:
            return decoding.grow(cache, bucket(needed))
        keep = self.limits.window + cache.num_past_queries
        # Half as much again as is kept, so that tokens move seldom.
        largest = bucket(keep + max(keep // 2, num_tokens))
        if needed <= largest:
            return decoding.grow(cache, bucket(needed))
        return decoding.shift(cache, keep)

    def _write(
        self,
        rows: Sequence["_Row"],
        written: Written,
        settings: dict[str, float],
        watch: Watch | None,
    ) -> None:
        most = max(row.most for row in rows)
        for start in range(0, most, self.limits.block):
            count = min(self.limits.block, most - start)
            cache = self.with_room(written.cache, count)
            tokens, log_probs, written = decoding.write(
                self.graphdef,
                self.params,
                dataclasses.replace(written, cache=cache),
                settings,
                count,
                self.eos_id,
                block=self.limits.block,
                num_tokens=self.num_tokens,
                window=self.limits.window,
            )
            unfinished = [row for row in rows if row.finish is None]
            for row, new, new_log_probs in zip(
                rows, np.asarray(tokens), np.asarray(log_probs), strict=True
            ):
                row.add(new[:count], new_log_probs[:count], self.eos_id)
            if watch is not None:
                for row, is_ended in zip(rows, watch([row.so_far for row in rows]), strict=True):
                    if is_ended and row in unfinished:
                        row.finish = "stop"
            if all(row.finish for row in rows):
                break
            is_done = jnp.array([row.finish is not None for row in rows])
            written = dataclasses.replace(written, is_done=is_done)


class _Row:
    """One continuation as it is written, of at most so many tokens."""

    def __init__(self, most: int):
        self.most = most
        self.finish: Finish | None = None
        self._tokens: list[np.ndarray] = []
        self._log_probs: list[np.ndarray] = []

    def add(self, tokens: np.ndarray, log_probs: np.ndarray, eos_id: int) -> None:
        """Adds new tokens up to the end token, as far as there is room."""
        if self.finish is not None:
            return
        room = self.most - sum(len(earlier) for earlier in self._tokens)
        tokens, log_probs = tokens[:room], log_probs[:room]
        ends = np.flatnonzero(tokens == eos_id)
        if ends.size:
            self.finish = "end"
            tokens, log_probs = tokens[: ends[0]], log_probs[: ends[0]]
        elif len(tokens) == room:
            self.finish = "length"
        self._tokens.append(tokens)
        self._log_probs.append(log_probs)

    @property
    def so_far(self) -> Continuation:
        return Continuation(
            np.concatenate(self._tokens), np.concatenate(self._log_probs), self.finish
        )


def _check(
    prompts: Sequence[np.ndarray],
    max_new_tokens: Sequence[int],
    num_samples: int,
    keys: Array,
) -> None:
    if not prompts:
        raise ValueError("prompts []: give at least one")
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(
                f"prompt {number} is empty: it needs at least one token, such as the begin token"
            )
    least = min(max_new_tokens)
    for name, value in (("max_new_tokens", least), ("num_samples", num_samples)):
        if value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    if len(max_new_tokens) != len(prompts):
        raise ValueError(
            f"max_new_tokens: {len(max_new_tokens)} numbers for {len(prompts)} prompts"
        )
    if keys.shape != (len(prompts),):
        raise ValueError(f"keys {keys.shape} for {len(prompts)} prompts: give one for each")


def _keys_of_samples(keys: Array, num_samples: int) -> Array:
    """The random key of each continuation."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))
    return fold(keys, jnp.arange(num_samples)).reshape(-1)


def _seen(prompts: Sequence[np.ndarray], vocab_size: int) -> Array:
    """Which tokens each prompt has."""
    seen = np.zeros((len(prompts), vocab_size), bool)
    for row, prompt in zip(seen, prompts, strict=True):
        row[prompt] = True
    return jnp.asarray(seen)
