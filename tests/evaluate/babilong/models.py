"""Text models that are no networks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mta_jax.data import ByteTokenizer, Tokenizer
from mta_jax.evaluate.babilong.tasks import TASKS
from mta_jax.evaluate.text_model import Advance
from mta_jax.inference import Score
from tests.evaluate.babilong.solver import answers, facts_in


@dataclasses.dataclass
class Solver:
    """Reads the facts in a prompt, and knows the answer."""

    name: str = "solver"
    kind: str = "none"
    tokenizer: Tokenizer = dataclasses.field(default_factory=ByteTokenizer)
    context_length: int = 1 << 20
    advanced: int = 0

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        advance: Advance | None = None,
    ) -> list[str]:
        self._count(prompts, advance)
        return [f" {_answer(prompt)}\n\nAnother text" for prompt in prompts]

    def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
    ) -> list[list[Score]]:
        self._count(prompts, advance)
        return [
            [
                Score(-1.0 if choice == f" {_answer(prompt)}" else -2.0, len(choice), False)
                for choice in own
            ]
            for prompt, own in zip(prompts, choices, strict=True)
        ]

    def _count(self, prompts: Sequence[str], advance: Advance | None) -> None:
        self.advanced += len(prompts)
        if advance:
            advance(len(prompts))


@dataclasses.dataclass
class Guesser(Solver):
    """Draws one of the labels."""

    name: str = "guesser"
    rng: np.random.Generator = dataclasses.field(default_factory=lambda: np.random.default_rng(0))

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        advance: Advance | None = None,
    ) -> list[str]:
        return [str(self.rng.choice(TASKS[1].labels)) for _ in prompts]

    def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
    ) -> list[list[Score]]:
        return [
            [Score(float(self.rng.normal()), len(choice), False) for choice in own]
            for own in choices
        ]


def _answer(prompt: str) -> str:
    context, _, question = prompt.rpartition("\n\n")[2].partition("\nQuestion: ")
    return answers(facts_in(context), question.removesuffix("\nAnswer:"))[-1]
