"""Facts among the sentences of another text."""

from collections.abc import Callable, Sequence

import numpy as np

from mta_jax.data import Tokenizer
from mta_jax.data.haystack import Haystack
from mta_jax.errors import ConfigError

SHORTEST = 10
"""Tokens of the shortest sentence of the other text, as in BABILong."""

# Tokens of sentences do not quite add up to those of a text, and a cut sentence has not always
# the number that it should.
_ROUNDS, _MOST_ROUNDS = 3, 16


class Background:
    """The sentences of a haystack that are long enough, as one tokenizer sees them.

    Args:
      haystack: the text.
      tokenizer: counts tokens.
    """

    def __init__(self, haystack: Haystack, tokenizer: Tokenizer) -> None:
        self.haystack = haystack
        self._tokenizer = tokenizer
        counts = haystack.token_counts(tokenizer)
        self._places = np.flatnonzero(counts >= SHORTEST)
        self._ends = np.cumsum(counts[self._places])

    @property
    def num_tokens(self) -> int:
        """Tokens of all sentences."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def check(self, num_tokens: int) -> None:
        """Makes sure that there are so many tokens.

        Raises:
          ConfigError: where there are not.
        """
        if num_tokens > self.num_tokens:
            raise ConfigError(
                f"haystack {self.haystack.name}: has {self.num_tokens:,} tokens in sentences of at "
                f"least {SHORTEST}; {num_tokens:,} are needed: give more text"
            )

    def sentences(self, start: int, num_tokens: int) -> list[str]:
        """Sentences that follow each other, the last one cut so that they have so many tokens.

        After the last of the haystack comes the first.

        Args:
          start: the first one, from 0 to the number of sentences.
          num_tokens: together, with a space before each.

        Raises:
          ConfigError: where the haystack has fewer.
        """
        if num_tokens <= 0:
            return []
        self.check(num_tokens)
        before = int(self._ends[start - 1]) if start else 0
        end = before + num_tokens
        last = int(np.searchsorted(self._ends, end - self.num_tokens * (end > self.num_tokens)))
        places = [*range(start, last + 1)]
        if end > self.num_tokens:
            places = [*range(start, len(self._ends)), *range(last + 1)]
        found = [self.haystack.sentences[self._places[place]] for place in places]
        over = (int(self._ends[last]) - end) % self.num_tokens
        if over:
            length = len(self._tokenizer.encode(f" {found[-1]}")) - over
            found[-1] = self._cut(found[-1], length)
        return [sentence for sentence in found if sentence]

    def draw_start(self, rng: np.random.Generator) -> int:
        """A first sentence."""
        return int(rng.integers(len(self._ends)))

    def _cut(self, sentence: str, num_tokens: int) -> str:
        """The longest beginning of a sentence of at most so many tokens."""
        fits, too_long = 0, len(sentence) + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if len(self._tokenizer.encode(f" {sentence[:middle]}")) <= num_tokens:
                fits = middle
            else:
                too_long = middle
        return sentence[:fits]


def hide(
    facts: Sequence[str],
    background: Background,
    num_tokens: int,
    *,
    count: Callable[[str], int],
    rng: np.random.Generator,
) -> str:
    """Puts facts, in their order, between sentences of another text.

    Where each stands is drawn independently and uniformly over the gaps between the sentences,
    before the first and after the last included; so several may stand in one.

    Args:
      facts: sentences.
      background: the other text, which begins at a sentence that is drawn.
      num_tokens: that the result is to have; it has as many, or a few less where no cut of the
        last sentence makes that number.
      count: counts the tokens of a result. The facts alone have at most `num_tokens`.
      rng: decides.

    Raises:
      ConfigError: where the other text is too short.
    """
    # What fits best of what was tried; without other text it fits.
    best = " ".join(facts)
    missing = wanted = num_tokens - count(best)
    if not missing:
        return best
    background.check(missing)
    start = background.draw_start(rng)
    gaps = np.sort(rng.random(len(facts)))
    for tried in range(_MOST_ROUNDS):
        text = _between(facts, background.sentences(start, wanted), gaps)
        over = count(text) - num_tokens
        if 0 <= -over < missing:
            best, missing = text, -over
        if over == 0 or (tried >= _ROUNDS and missing < SHORTEST):
            break
        wanted -= over
    return best


def _between(facts: Sequence[str], sentences: Sequence[str], gaps: np.ndarray) -> str:
    positions = (gaps * (len(sentences) + 1)).astype(int)
    parts: list[str] = []
    done = 0
    for fact, position in zip(facts, positions, strict=True):
        parts += [*sentences[done:position], fact]
        done = int(position)
    return " ".join([*parts, *sentences[done:]])
