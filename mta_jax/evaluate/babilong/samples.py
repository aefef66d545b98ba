"""Which questions are asked, and how one is made again from its line in the samples' file."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mta_jax.data import Tokenizer
from mta_jax.data.haystack import Haystack
from mta_jax.errors import ConfigError
from mta_jax.evaluate.babilong.contexts import Background, hide
from mta_jax.evaluate.babilong.prompts import Prompt
from mta_jax.evaluate.babilong.tasks import TASKS, Stories, Story, Task, stories_in_order

# A sentence has at least so many tokens: longer stories are left out, as in BABILong.
_TOKENS_OF_A_LINE = 8
# So many stories are looked at for each that is wanted, and some more.
_LOOKED_AT = 50


@dataclasses.dataclass(frozen=True)
class Sample:
    """One question with what it is hidden in.

    Attributes:
      task: its task.
      length: tokens that the whole text was to have; 0: facts alone.
      index: its place among the samples of its task, the same at every length.
      number: of its story in the stories.
      story: facts, question and answer.
      prompt: what the model reads.
      num_tokens: of the whole text: begin of document, prompt, and room for the answer.
    """

    task: Task
    length: int
    index: int
    number: int
    story: Story
    prompt: str
    num_tokens: int

    @property
    def digest(self) -> str:
        """Tells this prompt from other prompts."""
        return hashlib.sha256(self.prompt.encode(errors="surrogatepass")).hexdigest()


@dataclasses.dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of one tokenizer.

    Attributes:
      stories: where facts are from.
      background: what they are hidden in; None: only length 0 is asked for.
      tokenizer: the model's.
      seed: decides.
      shots: examples in the prompt.
      max_new_tokens: room for the answer.
    """

    stories: Stories
    background: Background | None
    tokenizer: Tokenizer
    seed: int
    shots: int
    max_new_tokens: int

    def choose(self, task: Task, samples: int, *, length: int) -> list[int]:
        """Numbers of the first stories that fit a length.

        Those have at most length / 8 lines, as in BABILong, and fit it with their prompt, of whose
        examples they are none.

        Args:
          task: the task.
          samples: how many.
          length: tokens; 0: any length fits.

        Raises:
          ConfigError: where there are not so many.
        """
        prompt = Prompt(task, self.shots)
        found: list[int] = []
        looked_at = 0
        for number, story in stories_in_order(self.stories, task, seed=self.seed):
            if self._fits(prompt, story, length):
                found.append(number)
            looked_at += 1
            if len(found) == samples or looked_at >= _LOOKED_AT * (samples + 10):
                break
        if len(found) < samples:
            raise ConfigError(
                f"samples {samples}: of {looked_at:,} stories of {task.name}, {self.stories.name}, "
                f"{len(found):,} fit "
                + (f"a length of {length:,} tokens with their prompt" if length else "any length")
                + "; ask for fewer, a longer text, or fewer shots"
            )
        return found

    def make(self, task: Task, *, length: int, index: int, number: int) -> Sample:
        """One sample.

        Raises:
          ConfigError: where the background is too short.
        """
        story = self.stories.story(task, number, seed=self.seed)
        prompt = Prompt(task, self.shots)
        context = " ".join(story.facts)
        if length:
            assert self.background is not None
            context = hide(
                story.facts,
                self.background,
                length,
                count=lambda text: self._num_tokens(prompt.around(text, story.question)),
                rng=np.random.default_rng([self.seed, task.number, length, index]),
            )
        text = prompt.around(context, story.question)
        return Sample(task, length, index, number, story, text, self._num_tokens(text))

    def origin(self, sample: Sample) -> dict[str, Any]:
        """All that is needed to make a sample again, as plain values."""
        haystack = self.background.haystack if self.background and sample.length else None
        return {
            "source": self.stories.name,
            "source_digest": self.stories.digest(sample.task),
            "seed": self.seed,
            "task": sample.task.name,
            "length": sample.length,
            "index": sample.index,
            "story": sample.number,
            "shots": self.shots,
            "max_new_tokens": self.max_new_tokens,
            "haystack": haystack and haystack.name,
            "haystack_digest": haystack and haystack.digest,
            "tokenizer": self.tokenizer.fingerprint,
            "prompt_digest": sample.digest,
        }

    def _fits(self, prompt: Prompt, story: Story, length: int) -> bool:
        if story in prompt.examples:
            # The prompt would tell its answer.
            return False
        if not length:
            return True
        text = prompt.around(" ".join(story.facts), story.question)
        # The question is a line too.
        num_lines = len(story.facts) + 1
        return num_lines <= length // _TOKENS_OF_A_LINE and self._num_tokens(text) <= length

    def _num_tokens(self, prompt: str) -> int:
        return 1 + len(self.tokenizer.encode(prompt)) + self.max_new_tokens


def sample_of_row(
    row: Mapping[str, Any], *, stories: Stories, haystack: Haystack | None, tokenizer: Tokenizer
) -> Sample:
    """The sample behind a line of the samples' file.

    Args:
      row: the line.
      stories: of the same name and with the same files as then.
      haystack: as then; None: the facts stand alone.
      tokenizer: as then.

    Raises:
      ConfigError: where one of them is another one.
    """
    task = TASKS[int(row["task"].removeprefix("QA"))]
    maker = SampleMaker(
        stories=stories,
        background=Background(haystack, tokenizer) if haystack and row["length"] else None,
        tokenizer=tokenizer,
        seed=row["seed"],
        shots=row["shots"],
        max_new_tokens=row["max_new_tokens"],
    )
    given = {
        "source": stories.name,
        "source_digest": stories.digest(task),
        "haystack_digest": haystack.digest if haystack and row["length"] else None,
        "tokenizer": tokenizer.fingerprint,
    }
    for name, value in given.items():
        if value != row[name]:
            raise ConfigError(f"{name} {value}: the sample was made with {row[name]}")
    sample = maker.make(task, length=row["length"], index=row["index"], number=row["story"])
    if sample.digest != row["prompt_digest"]:
        raise ConfigError(
            f"prompt_digest {sample.digest}: the sample was {row['prompt_digest']}; it was made by "
            "another version"
        )
    return sample
