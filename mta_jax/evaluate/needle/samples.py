"""Samples: what is drawn for a cell, and how a context is built again from its row."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mta_jax.data import Tokenizer
from mta_jax.data.haystack import Haystack
from mta_jax.data.needles import NeedleContext, NeedleSpec, check_spec, draw_context
from mta_jax.errors import ConfigError

_FEWEST_CHOICES = 10


@dataclasses.dataclass(frozen=True)
class Cell:
    """Samples that differ in what is drawn only.

    Attributes:
      length: tokens of a context.
      num_needles: cities it tells of.
      num_asked: cities the question names.
      depth: of the needle that is asked for first, in percent.
      digits: of the numbers.
    """

    length: int
    num_needles: int
    num_asked: int
    depth: float
    digits: int

    def spec(self) -> NeedleSpec:
        """For the context."""
        return NeedleSpec(
            length=self.length,
            num_needles=self.num_needles,
            num_asked=self.num_asked,
            depth=self.depth / 100,
            digits=self.digits,
        )


class Contexts:
    """Draws contexts from a haystack, for one tokenizer.

    Args:
      haystack: the text.
      tokenizer: of the model that is asked.
    """

    def __init__(self, haystack: Haystack, tokenizer: Tokenizer):
        self._haystack = haystack
        self._tokenizer = tokenizer
        self._sizes = haystack.token_counts(tokenizer)

    def check(self, cell: Cell) -> None:
        """Makes sure that any sample of a cell can be drawn.

        Raises:
          ConfigError: where the length has no room, or the haystack is too short.
        """
        try:
            check_spec(cell.spec(), self._haystack, self._sizes, self._tokenizer)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def draw(self, cell: Cell, *, seed: int, sample: int) -> NeedleContext:
        """One sample of a cell, which depends on these arguments alone."""
        rng = _generator(cell, seed, sample)
        return draw_context(self._haystack, self._sizes, self._tokenizer, cell.spec(), rng)

    def recipe(
        self, cell: Cell, context: NeedleContext, *, seed: int, sample: int
    ) -> dict[str, Any]:
        """What `rebuilt` needs."""
        return {
            "cell": dataclasses.asdict(cell),
            "seed": seed,
            "sample": sample,
            "haystack": {"name": self._haystack.name, "digest": self._haystack.digest},
            "tokenizer": self._tokenizer.fingerprint,
            "prompt": _digest(context),
        }

    def rebuilt(self, row: Mapping[str, Any]) -> NeedleContext:
        """The context of a line of samples.jsonl.

        Raises:
          ConfigError: where the haystack, the tokenizer or what is drawn is another one.
        """
        if row["haystack"]["digest"] != self._haystack.digest:
            raise ConfigError(
                f"haystack {self._haystack.name}: is not the text that the row was made of, "
                f"{row['haystack']['name']} as it was then"
            )
        if row["tokenizer"] != self._tokenizer.fingerprint:
            raise ConfigError(
                f"tokenizer {self._tokenizer.name}: is not the one that the row was made with"
            )
        context = self.draw(Cell(**row["cell"]), seed=row["seed"], sample=row["sample"])
        if row["prompt"] != _digest(context):
            raise ConfigError(
                "prompt: this version draws another one than that which the row was made with"
            )
        return context


def _digest(context: NeedleContext) -> str:
    return hashlib.sha256(context.prompt.encode(errors="surrogatepass")).hexdigest()


def choices_for(context: NeedleContext, cell: Cell, *, seed: int, sample: int) -> list[str]:
    """Numbers among which the right ones are to be found: those of all needles, and others.

    At least ten, where there are so many of these digits; in the order of their values.
    """
    low = 10 ** (cell.digits - 1) if cell.digits > 1 else 0
    high = 10**cell.digits
    wanted = min(max(_FEWEST_CHOICES, len(set(context.numbers))), high - low)
    found = {int(number) for number in context.numbers}
    rng = _generator(cell, seed, sample, 1)
    while len(found) < wanted:
        found.add(int(rng.integers(low, high)))
    return [str(number) for number in sorted(found)]


def _generator(cell: Cell, seed: int, sample: int, *stream: int) -> np.random.Generator:
    # In thousandths of a percent, so that a depth is a whole number.
    depth = round(cell.depth * 1000)
    numbers = (seed, cell.length, cell.num_needles, cell.num_asked, depth, cell.digits, sample)
    return np.random.default_rng([*numbers, *stream])
