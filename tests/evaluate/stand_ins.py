"""Models that tasks are tried with: one that knows, one that guesses."""

import dataclasses
from collections.abc import Callable

import numpy as np

from mta_jax.data import ByteTokenizer, Tokenizer
from mta_jax.inference import Score


@dataclasses.dataclass
class Oracle:
    """Is told what to answer.

    Attributes:
      answer: the right continuation of a prompt.
    """

    answer: Callable[[str], str]
    name: str = "oracle"
    kind: str = "none"
    tokenizer: Tokenizer = dataclasses.field(default_factory=ByteTokenizer)
    context_length: int = 10**6

    def generate(self, prompts, *, max_new_tokens, stop=(), advance=None):
        del max_new_tokens, stop
        if advance:
            advance(len(prompts))
        return [self.answer(prompt) for prompt in prompts]

    def score(self, prompts, choices, *, advance=None):
        if advance:
            advance(len(prompts))
        return [
            [self._score(self.answer(prompt), choice) for choice in own]
            for prompt, own in zip(prompts, choices, strict=True)
        ]

    def _score(self, answer, choice):
        is_right = bool(choice) and (answer == choice or answer.startswith(f"{choice}."))
        return Score(0.0 if is_right else -100.0, len(choice), is_right)


@dataclasses.dataclass
class Guesser:
    """Finds every continuation as likely as the next, and writes digits."""

    name: str = "guesser"
    kind: str = "none"
    tokenizer: Tokenizer = dataclasses.field(default_factory=ByteTokenizer)
    context_length: int = 10**6
    rng: np.random.Generator = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    def generate(self, prompts, *, max_new_tokens, stop=(), advance=None):
        del max_new_tokens, stop, advance
        return [f" {self.rng.integers(10)}." for _ in prompts]

    def score(self, prompts, choices, *, advance=None):
        del advance
        return [
            [Score(float(self.rng.normal()), 1, False) for _ in own]
            for _, own in zip(prompts, choices, strict=True)
        ]
