"""How the next token is drawn from logits."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Filters of the next token's distribution, applied in the order of the fields.

    They are those of Hugging Face's `transformers` by the same names, but for tokens of equal
    probability at the border, which are all kept.

    Example:
      >>> Sampling(temperature=0.8, top_p=0.95).settings
      {'temperature': 0.8, 'top_p': 0.95}
      >>> Sampling(top_p=95)
      Traceback (most recent call last):
      ValueError: top_p 95: must be above 0 and at most 1, or null
    """

    repetition_penalty: float | None = None
    """Divides the positive and multiplies the negative logits of tokens that the prompt or the
    text has already (https://arxiv.org/abs/1909.05858); null or 1: none."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token, whatever the filters below."""

    top_k: int | None = None
    """Keep the likeliest tokens, so many of them, and those that are as likely as the last;
    null: all."""

    top_p: float | None = None
    """Keep the likeliest tokens, as many as reach this probability together, and those that are as
    likely as the last (https://arxiv.org/abs/1904.09751); null: all."""

    min_p: float | None = None
    """Keep tokens that have at least this share of the likeliest one's probability
    (https://arxiv.org/abs/2407.01082); null: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}: must be at least 0, and finite")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: must be at least 1, or null")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} {value}: must be above 0 and at most 1, or null")
        penalty = self.repetition_penalty
        if penalty is not None and not 0 < penalty < math.inf:
            raise ValueError(f"repetition_penalty {penalty}: must be above 0, and finite")

    @property
    def settings(self) -> dict[str, float]:
        """What is on. Which ones are decides the compiled program; their values do not."""
        settings = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and (name, value) not in _OFF
        }
        if self.temperature == 0:
            return {name: settings[name] for name in ("repetition_penalty",) if name in settings}
        return settings


UNFILTERED = Sampling()
"""Draws from what the model says."""

_OFF = {("repetition_penalty", 1.0), ("top_p", 1.0)}


def draw(
    logits: Float[Array, "B V"],
    settings: Mapping[str, float | Array],
    keys: Array,
    seen: Bool[Array, "B V"] | None = None,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next token of each sequence.

    Args:
      logits: of every token.
      settings: `Sampling.settings`; without a temperature the likeliest token is taken.
      keys: random key of each sequence.
      seen: tokens that each sequence has, for the repetition penalty.

    Returns:
      The tokens, and their log-probabilities by the model itself, unfiltered.

    Example:
      >>> logits = jnp.log(jnp.array([[0.1, 0.7, 0.2]]))
      >>> tokens, log_probs = draw(logits, Sampling(temperature=0).settings, jax.random.key(0))
      >>> tokens.tolist(), round(float(log_probs[0]), 3)
      ([1], -0.357)
    """
    filtered = logits
    if "repetition_penalty" in settings and seen is not None:
        penalty = settings["repetition_penalty"]
        penalized = jnp.where(logits > 0, logits / penalty, logits * penalty)
        filtered = jnp.where(seen, penalized, logits)
    if "temperature" in settings:
        # A tiny temperature must not make logits infinite.
        largest = jnp.max(filtered, axis=-1, keepdims=True)
        filtered = (filtered - largest) / jnp.maximum(settings["temperature"], 1e-6)
        filtered = _filtered(filtered, settings)
        tokens = jax.vmap(jax.random.categorical)(keys, filtered)
    else:
        tokens = jnp.argmax(filtered, axis=-1)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return tokens, jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)[:, 0]


def _filtered(
    logits: Float[Array, "B V"], settings: Mapping[str, float | Array]
) -> Float[Array, "B V"]:
    """Logits with `MASK_VALUE` for what may not be drawn."""
    if "top_k" in settings or "top_p" in settings:
        logits = jnp.where(logits >= _least_kept(logits, settings), logits, MASK_VALUE)
    if "min_p" in settings:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(settings["min_p"])
        logits = jnp.where(logits >= least, logits, MASK_VALUE)
    return logits


def _least_kept(
    logits: Float[Array, "B V"], settings: Mapping[str, float | Array]
) -> Float[Array, "B 1"]:
    """The logit of the last token that top-k and top-p keep; both keep at least one."""
    descending = -jnp.sort(-logits, axis=-1)
    num_kept: Array | float = logits.shape[-1]
    if "top_k" in settings:
        num_kept = jnp.minimum(settings["top_k"], logits.shape[-1])
        rank = jnp.arange(logits.shape[-1])
        descending = jnp.where(rank < num_kept, descending, MASK_VALUE)
    kept = jnp.asarray(num_kept, jnp.int32)
    if "top_p" in settings:
        probs = jax.nn.softmax(descending, axis=-1)
        # A token is kept while those likelier than it do not reach the probability yet.
        before = jnp.cumsum(probs, axis=-1) - probs
        by_probability = jnp.sum(before < settings["top_p"], axis=-1, keepdims=True)
        kept = jnp.minimum(kept, by_probability)
    last = jnp.broadcast_to(jnp.maximum(kept, 1) - 1, (logits.shape[0], 1))
    return jnp.take_along_axis(descending, last, axis=-1)
