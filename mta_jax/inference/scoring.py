"""How likely a language model finds given continuations."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mta_jax.inference.decoder import Decoder
from mta_jax.typing import Array, Bool, Float, Int

_SMALLEST = 8


@dataclasses.dataclass(frozen=True)
class Score:
    """What a model thinks of one continuation.

    Attributes:
      log_prob: of all its tokens together, in nats.
      num_tokens: how many they are.
      is_greedy: whether each is the likeliest after those before it, so that greedy decoding
        writes this continuation.
    """

    log_prob: float
    num_tokens: int
    is_greedy: bool


def score(
    decoder: Decoder, prompts: Sequence[np.ndarray], choices: Sequence[Sequence[np.ndarray]]
) -> list[list[Score]]:
    """Scores continuations of prompts. A prompt is read once, however many it has.

    Shapes are those of the number of prompts and of lengths rounded up, so that batches of
    equally many prompts compile seldom.

    Args:
      decoder: the model.
      prompts: token ids, at least one each.
      choices: token ids of the continuations of each prompt, at least one each.

    Returns:
      Scores of the continuations of each prompt.

    Raises:
      ValueError: for an empty prompt or continuation.

    Example:
      >>> from mta_jax.models import ModelConfig, Transformer
      >>> config = ModelConfig(vocab_size=258, num_layers=1, embed_dim=32, num_heads=2, mlp_dim=64)
      >>> graphdef, params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))
      >>> decoder = Decoder(graphdef=graphdef, params=params, eos_id=257, num_tokens=258)
      >>> ((yes, no),) = score(decoder, [np.array([63])], [[np.array([121]), np.array([110, 111])]])
      >>> yes.num_tokens, no.num_tokens
      (1, 2)
      >>> max(yes.log_prob, no.log_prob) < 0
      True
    """
    if len(prompts) != len(choices):
        raise ValueError(f"choices: of {len(choices)} prompts, where there are {len(prompts)}")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("prompts: one is empty; it needs at least one token")
    if any(len(choice) == 0 for own in choices for choice in own):
        raise ValueError("choices: one is empty; it needs at least one token")
    longest = max((len(choice) for own in choices for choice in own), default=0)
    logits, cache = decoder.read(prompts, _padded_length(longest))
    cache = decoder.with_room(cache, _padded_length(longest))
    scores: list[list[Score]] = [[] for _ in prompts]
    for number in range(max(map(len, choices))):
        own = [row[number] if number < len(row) else row[:0] for row in choices]
        length = _padded_length(max(map(len, own)))
        tokens = np.zeros((len(prompts), length), np.int32)
        for row, choice in zip(tokens, own, strict=True):
            row[: len(choice)] = choice
        counts = np.array([len(choice) for choice in own])
        log_probs, is_greedy = jax.device_get(
            _score(
                decoder.graphdef,
                decoder.params,
                logits,
                cache,
                tokens,
                counts,
                num_tokens=decoder.num_tokens,
                window=decoder.limits.window,
            )
        )
        found = zip(scores, counts, log_probs, is_greedy, strict=True)
        for of_prompt, count, log_prob, greedy in found:
            if count:
                of_prompt.append(Score(float(log_prob), int(count), bool(greedy)))
    return scores


def _padded_length(length: int) -> int:
    if length <= 1:
        return 1
    size = _SMALLEST
    while size < length:
        size *= 2
    return size


@functools.partial(jax.jit, static_argnums=0, static_argnames=("num_tokens", "window"))
def _score(
    graphdef: nnx.GraphDef,
    params: Any,
    logits: Float[Array, "B V"],
    cache: Any,
    tokens: Int[Array, "B T"],
    counts: Int[Array, "B"],
    *,
    num_tokens: int,
    window: int | None,
) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
    """Log-probability of one continuation of each prompt, and whether it is the greedy one.

    Args:
      graphdef: structure of the model.
      params: its parameters.
      logits: after the prompts.
      cache: of the prompts, with room for the tokens.
      tokens: the continuations; those beyond a count are padding.
      counts: tokens of each.
      num_tokens: tokens that may be written; a model may have more than its tokenizer.
      window: tokens that attention sees; None: all.
    """

    def judge(logits: Array, own: Array) -> tuple[Array, Array]:
        """Log-probability of a token of each, [B], and whether it is the likeliest."""
        logits = logits.astype(jnp.float32)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), own[:, None], axis=-1)
        return log_probs[:, 0], jnp.argmax(logits[:, :num_tokens], axis=-1) == own

    log_probs, is_likeliest = jax.tree.map(lambda x: x[None], judge(logits, tokens[:, 0]))
    if tokens.shape[1] > 1:
        model = nnx.merge(graphdef, params)
        features, _ = model.extend(
            tokens[:, :-1], cache, counts=jnp.maximum(counts - 1, 0), window=window
        )
        # One place at a time: logits of all would take more memory than the model.
        following = jax.lax.map(
            lambda x: judge(model.logits(x[0]), x[1]),
            (jnp.swapaxes(features, 0, 1), tokens[:, 1:].T),
        )
        log_probs, is_likeliest = jax.tree.map(
            lambda *x: jnp.concatenate(x), (log_probs, is_likeliest), following
        )
    is_token = jnp.arange(tokens.shape[1])[:, None] < counts
    return (
        jnp.sum(jnp.where(is_token, log_probs, 0.0), axis=0),
        jnp.all(is_likeliest | ~is_token, axis=0),
    )
