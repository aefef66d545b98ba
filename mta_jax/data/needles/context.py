"""One context: a haystack with needles in it, and a question."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mta_jax.data.haystack import Haystack, tokens_behind
from mta_jax.data.needles.cities import CITIES
from mta_jax.data.tokenizers import Tokenizer

MOST_NEEDLES = len(CITIES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedleSpec:
    """What a context is to be.

    Attributes:
      length: most tokens of context, question and answer, with that which begins a document.
      num_needles: N, cities whose numbers it tells.
      num_asked: R, cities that the question names.
      depth: share of the context that stands before the needle that is asked for first, from 0
        to 1, as nearly as sentences end there; the others stand anywhere.
      digits: of the numbers.
    """

    length: int
    num_needles: int
    num_asked: int = 1
    depth: float = 0.5
    digits: int = 1


@dataclasses.dataclass(frozen=True)
class NeedleContext:
    """A context with its question.

    Attributes:
      text: the haystack with the needles in it.
      cities: of the needles; the question names the first `num_asked` in this order.
      numbers: of the cities; different ones, as far as there are enough.
      num_asked: cities that the question names.
      depth: share of the text, in tokens, that stands before the needle asked for first.
    """

    text: str
    cities: Sequence[str]
    numbers: Sequence[str]
    num_asked: int
    depth: float

    @property
    def asked(self) -> list[tuple[str, str]]:
        """City and number of each needle that is asked for."""
        return list(zip(self.cities, self.numbers, strict=True))[: self.num_asked]

    @property
    def prompt(self) -> str:
        """Context and question, up to where the first number belongs."""
        return self.prompt_for(0)

    def prompt_for(self, number: int) -> str:
        """Context, question, and the right answer up to where one of its numbers belongs."""
        facts = [_fact(city, value) for city, value in self.asked[:number]]
        begun = _fact(self.cities[number], "").removesuffix(" .")
        return (
            self.text + _question(list(self.cities[: self.num_asked])) + " ".join([*facts, begun])
        )

    @property
    def answer(self) -> str:
        """What follows the prompt."""
        facts = " ".join(_fact(city, number) for city, number in self.asked)
        return facts.removeprefix(_fact(self.cities[0], "").removesuffix(" ."))


def check_spec(
    spec: NeedleSpec, haystack: Haystack, sizes: np.ndarray, tokenizer: Tokenizer
) -> None:
    """Makes sure that any context can be drawn: with the cities of most tokens, too.

    Args:
      spec: what contexts are to be.
      haystack: the text.
      sizes: `haystack.token_counts` of the tokenizer.
      tokenizer: tells the length.

    Raises:
      ValueError: where the length has no room for needles and question, or the haystack is
        shorter than the context.
    """
    number = "8" * spec.digits
    sizes_of_facts = tokens_behind(tokenizer, [_fact(city, number) for city in CITIES])
    largest = np.argsort(-sizes_of_facts, kind="stable")[: spec.num_needles]
    cities = [CITIES[index] for index in largest]
    empty = NeedleContext("", cities, [number] * len(cities), spec.num_asked, 0.0)
    question = 1 + len(tokenizer.encode(empty.prompt + empty.answer))
    needed = question + int(sizes_of_facts[largest].sum())
    if needed > spec.length:
        raise ValueError(
            f"length {spec.length}: {spec.num_needles} needles with a question for "
            f"{spec.num_asked} take up to {needed} tokens"
        )
    if spec.length > sizes.sum():
        raise ValueError(
            f"haystack {haystack.name}: has {int(sizes.sum()):,} tokens, and a context has "
            f"{spec.length:,}; name a longer one"
        )


def draw_context(
    haystack: Haystack,
    sizes: np.ndarray,
    tokenizer: Tokenizer,
    spec: NeedleSpec,
    rng: np.random.Generator,
) -> NeedleContext:
    """Draws cities, numbers, a place in the haystack, and the places of the needles.

    Args:
      haystack: the text.
      sizes: `haystack.token_counts` of the tokenizer.
      tokenizer: tells the length.
      spec: what it is to be.
      rng: source of all that is drawn.

    Raises:
      ValueError: where that cannot be, which `check_spec` tells before.
    """
    cities = [CITIES[index] for index in rng.permutation(len(CITIES))[: spec.num_needles]]
    numbers = _numbers(spec, rng)
    needles = [_fact(city, number) for city, number in zip(cities, numbers, strict=True)]
    needle_sizes = tokens_behind(tokenizer, needles).tolist()
    empty = NeedleContext("", cities, numbers, spec.num_asked, 0.0)
    rest = 1 + len(tokenizer.encode(empty.prompt + empty.answer))
    room = spec.length - rest - sum(needle_sizes)
    if room < 0 or room > sizes.sum():
        check_spec(spec, haystack, sizes, tokenizer)
        raise ValueError(f"length {spec.length}: has no room for {' '.join(needles)}")
    first, count = _stretch(sizes, room, rng)
    order = (first + np.arange(count)) % len(sizes)
    places = rng.random(spec.num_needles)
    while True:
        pieces = [haystack.sentences[index] for index in order.tolist()]
        text, depth = _with_needles(
            pieces, sizes[order].tolist(), needles, needle_sizes, places, spec.depth
        )
        context = dataclasses.replace(empty, text=text, depth=depth)
        length = 1 + len(tokenizer.encode(context.prompt + context.answer))
        # Sentences may have more tokens together than alone.
        if length <= spec.length:
            return context
        if not len(order):
            raise ValueError(f"length {spec.length}: has no room for {' '.join(needles)}")
        order = order[:-1]


def _fact(city: str, number: str) -> str:
    return f"The magic number of {city} is {number}."


def _question(cities: list[str]) -> str:
    if len(cities) == 1:
        asked = f"What is the magic number of {cities[0]}?"
    else:
        named = f"{', '.join(cities[:-1])} and {cities[-1]}"
        asked = f"What are the magic numbers of {named}?"
    return f"\n\nQuestion: {asked}\nAnswer: "


def _numbers(spec: NeedleSpec, rng: np.random.Generator) -> list[str]:
    """Numbers of so many digits, without leading zeros where they have several."""
    low = 10 ** (spec.digits - 1) if spec.digits > 1 else 0
    high = 10**spec.digits
    if spec.num_needles <= high - low <= 1000:
        drawn = low + rng.permutation(high - low)[: spec.num_needles]
    elif spec.num_needles > high - low:
        drawn = rng.integers(low, high, spec.num_needles)
    else:
        found: dict[int, None] = {}
        while len(found) < spec.num_needles:
            found[int(rng.integers(low, high))] = None
        drawn = np.array(list(found))
    return [str(int(number)) for number in drawn]


def _stretch(sizes: np.ndarray, room: int, rng: np.random.Generator) -> tuple[int, int]:
    """First sentence, and number, of a stretch that fills the room; it may go round the end."""
    first = int(rng.integers(len(sizes)))
    # No sentence is without a token, so that no more than these fit.
    within = sizes[(first + np.arange(min(room + 1, len(sizes)))) % len(sizes)]
    return first, int(np.searchsorted(np.cumsum(within), room, side="right"))


def _with_needles(
    pieces: list[str],
    sizes: list[int],
    needles: Sequence[str],
    needle_sizes: Sequence[int],
    places: np.ndarray,
    depth: float,
) -> tuple[str, float]:
    """The text with its needles, and the depth of the first, as a share of the other tokens.

    Args:
      pieces: sentences.
      sizes: their tokens.
      needles: what to put in.
      needle_sizes: their tokens.
      places: depth of each but the first, from 0 to 1.
      depth: of the first.
    """
    before = 0
    for number in [*range(1, len(needles)), 0]:
        # The first comes last: its depth is that in the finished text.
        borders = np.concatenate([[0], np.cumsum(sizes)])
        wanted = (depth if number == 0 else places[number]) * borders[-1]
        place = int(np.argmin(np.abs(borders - wanted)))
        before = int(borders[place])
        pieces.insert(place, needles[number])
        sizes.insert(place, needle_sizes[number])
    return " ".join(pieces), before / max(sum(sizes) - needle_sizes[0], 1)
