"""Likelihoods of continuations, cut and encoded as lm-evaluation-harness does."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from mta_jax.data import Tokenizer, split_tokens
from mta_jax.errors import UserError
from mta_jax.evaluate.text_model import Advance, filled, in_batches
from mta_jax.generate.language_model import LanguageModel
from mta_jax.inference import Score, score

# Continuations of one context that are scored after reading it once: many tasks ask for a few, and
# rows of a batch should have about equally many.
_MOST_CONTINUATIONS = 16


@dataclasses.dataclass(frozen=True)
class Pair:
    """A context and its continuation.

    Attributes:
      context: token ids, at least one.
      continuation: token ids, at least one.
    """

    context: np.ndarray
    continuation: np.ndarray

    def cut(self, length: int) -> "Pair":
        """Without the first tokens of a context that is too long.

        Args:
          length: tokens that the model reads at most; the last one of all is not read.

        Raises:
          UserError: where the continuation alone is too long.
        """
        if len(self.continuation) > length:
            raise UserError(
                f"continuation of {len(self.continuation):,} tokens: the model's context is "
                f"{length:,}; shorten it"
            )
        excess = len(self.context) + len(self.continuation) - (length + 1)
        return dataclasses.replace(self, context=self.context[max(excess, 0) :])


def encoded_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Tokens of a context, after that which begins a document, and of its continuation.

    White space at the end of the context belongs to the continuation, whose tokens are those
    that it adds where both are encoded together; it is encoded by itself where it adds none.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    given, (added,) = split_tokens(tokenizer, kept, [continuation])
    return Pair(np.concatenate([[tokenizer.bos_id], given]).astype(np.int32), added)


def score_pairs(
    model: LanguageModel,
    pairs: Iterable[Pair],
    *,
    context_length: int,
    batch_size: int,
    advance: Advance | None = None,
) -> list[Score]:
    """Scores continuations. A context that several have is read once.

    Args:
      model: the model.
      pairs: contexts and continuations.
      context_length: tokens that the model reads at most; contexts lose their first ones.
      batch_size: contexts at a time.
      advance: is told how many more pairs are done.

    Returns:
      The score of each continuation.

    Raises:
      UserError: where a continuation alone is too long.
    """
    pairs = [pair.cut(context_length) for pair in pairs]
    groups = _of_one_context(pairs)
    scores: dict[int, Score] = {}
    for numbers in in_batches([len(pairs[group[0]].context) for group in groups], batch_size):
        rows = filled([groups[number] for number in numbers], batch_size)
        found = score(
            model.decoder,
            [pairs[places[0]].context for places in rows],
            [[pairs[place].continuation for place in places] for places in rows],
        )
        for places, own in zip(rows, found, strict=True):
            scores.update(zip(places, own, strict=True))
        if advance:
            advance(sum(len(groups[number]) for number in numbers))
    return [scores[place] for place in range(len(pairs))]


def _of_one_context(pairs: Sequence[Pair]) -> list[list[int]]:
    """Places of pairs that have the same context, a few at a time."""
    places: dict[bytes, list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair.context.tobytes(), []).append(place)
    return [
        own[start : start + _MOST_CONTINUATIONS]
        for own in places.values()
        for start in range(0, len(own), _MOST_CONTINUATIONS)
    ]
