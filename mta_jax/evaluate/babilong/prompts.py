"""What a model reads."""

import functools
from collections.abc import Sequence

from mta_jax.evaluate.babilong.generator import short_stories
from mta_jax.evaluate.babilong.tasks import Story, Task

_MOST_FACTS = 6


class Prompt:
    """The text around the facts of a task: a completion prompt, for models without a chat.

    Args:
      task: the task.
      shots: examples with their answers. They are made up, short, the same for all questions and
        without other text between their facts; their answers differ as far as there are labels.

    Attributes:
      examples: the stories of these.
    """

    def __init__(self, task: Task, shots: int) -> None:
        self.examples = _examples(task, shots)
        lines = [f"{task.instruction} Answer each question with one word."]
        lines += [
            f"{_asked(' '.join(story.facts), story.question)} {story.answer}"
            for story in self.examples
        ]
        self._beginning = "\n\n".join(lines)

    def around(self, context: str, question: str) -> str:
        """The whole prompt, up to "Answer:"."""
        return f"{self._beginning}\n\n{_asked(context, question)}"


def answers(labels: Sequence[str]) -> list[str]:
    """Labels as they follow a prompt."""
    return [f" {label}" for label in labels]


def _asked(context: str, question: str) -> str:
    return f"{context}\nQuestion: {question}\nAnswer:"


@functools.cache
def _examples(task: Task, shots: int) -> tuple[Story, ...]:
    found: list[Story] = []
    if shots:
        for story in short_stories(task, _MOST_FACTS):
            used = [other.answer for other in found]
            if used.count(story.answer) <= len(found) // len(task.labels):
                found.append(story)
            if len(found) == shots:
                break
    return tuple(found)
