"""Needles as training text: documents whose answers are learned, and whose contexts are given."""

import dataclasses
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np

from mta_jax.data.haystack import load_haystack
from mta_jax.data.needles.context import (
    MOST_NEEDLES,
    NeedleContext,
    NeedleSpec,
    check_spec,
    draw_context,
)
from mta_jax.data.sources import Document
from mta_jax.data.sources.documents import summarize
from mta_jax.data.tokenizers import Tokenizer
from mta_jax.errors import ConfigError

NEEDLES = "needles:"

# The name of each is hashed to hold some out.
_MOST = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What may follow the ``?`` of a location."""

    length: int = 256
    needles: tuple[int, ...] = (1, 2, 4)
    asked: tuple[int, ...] = (1,)
    digits: int = 1
    documents: int = 100_000
    seed: int = 0
    loss: str = "answer"


class NeedleDocuments:
    """Any number of contexts with their questions, each drawn when it is read.

    Args:
      location: ``needles:TEXT?OPTIONS``; TEXT is a location of the haystack, such as
        ``python:docs`` or a folder. Options, joined by ``&``:

        - ``length``: tokens of a document with its begin and end, at most one more (256).
        - ``needles``: numbers of needles, of which each document has one (1,2,4).
        - ``asked``: numbers of cities that are asked for, likewise; at most those there are (1).
        - ``digits``: of the numbers (1).
        - ``documents``: how many there are before they repeat (100000).
        - ``seed``: decides all of them (0).
        - ``loss``: ``answer``, or ``all`` to learn the context as text too (answer).
      tokenizer: tells the lengths.
      setting: that names the location, for messages.
      field: of lines of JSON, parquet and Hugging Face, the field that holds the haystack.

    Raises:
      ConfigError: where an option or the text cannot be used.
    """

    def __init__(self, location: str, tokenizer: Tokenizer, setting: str, *, field: str = "text"):
        self._location = location
        self._tokenizer = tokenizer
        # The haystack's own location may have options too.
        place, _, query = location.removeprefix(NEEDLES).rpartition("?")
        if not place:
            place, query = query, ""
        self._options = _options(query, f"{setting} {location}")
        if not place:
            raise ConfigError(
                f"{setting} {location}: expected {NEEDLES}TEXT, such as {NEEDLES}python:docs"
            )
        self._haystack = load_haystack([place], setting=setting, field=field)
        self._sizes = self._haystack.token_counts(tokenizer)
        most = max(self._options.needles)
        largest = self._spec(most, min(most, max(self._options.asked)), depth=0.5)
        try:
            check_spec(largest, self._haystack, self._sizes, tokenizer)
        except ValueError as error:
            raise ConfigError(f"{setting} {location}: {error}") from None

    def __len__(self) -> int:
        return self._options.documents

    def __getitem__(self, index: int) -> Document | None:
        """The context and question are given, the answer is what is learned."""
        context = self._draw(index)
        if self._options.loss == "all":
            return Document(self.name(index), context.prompt + context.answer)
        return Document(self.name(index), context.answer, prompt=context.prompt)

    def name(self, index: int) -> str:
        """The number of the document."""
        return f"{NEEDLES}{index:09d}"

    def summary(self) -> Mapping[str, Any]:
        """Of the haystack and the options."""
        content = [self._haystack.digest.encode(), repr(self._options).encode()]
        return summarize([], documents=len(self), content=content)

    def _draw(self, index: int) -> NeedleContext:
        rng = np.random.default_rng([self._options.seed, int(index)])
        num_needles = int(rng.choice(self._options.needles))
        num_asked = min(int(rng.choice(self._options.asked)), num_needles)
        spec = self._spec(num_needles, num_asked, depth=float(rng.random()))
        return draw_context(self._haystack, self._sizes, self._tokenizer, spec, rng)

    def _spec(self, num_needles: int, num_asked: int, *, depth: float) -> NeedleSpec:
        return NeedleSpec(
            length=self._options.length,
            num_needles=num_needles,
            num_asked=num_asked,
            depth=depth,
            digits=self._options.digits,
        )


def _options(query: str, where: str) -> _Options:
    given = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    known = {field.name for field in dataclasses.fields(_Options)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{where}: no option {name!r}; there are {', '.join(sorted(known))}")
        if name == "loss":
            if value not in ("answer", "all"):
                raise ConfigError(f"{where}: loss {value!r}: must be answer or all")
            values[name] = value
            continue
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            raise ConfigError(f"{where}: {name} {value!r}: must be a whole number") from None
        most = {"needles": MOST_NEEDLES, "asked": MOST_NEEDLES, "digits": 9}.get(name, _MOST)
        least = 0 if name == "seed" else 1
        if not all(least <= number <= most for number in numbers):
            raise ConfigError(f"{where}: {name} {value!r}: must be in {least}..{most}")
        if name in ("needles", "asked"):
            values[name] = numbers
        elif len(numbers) == 1:
            values[name] = numbers[0]
        else:
            raise ConfigError(f"{where}: {name} {value!r}: must be one number")
    return _Options(**values)
