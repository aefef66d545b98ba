"""The five tasks, and what a story of one is."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")
THINGS = ("apple", "football", "milk")


@dataclasses.dataclass(frozen=True)
class Story:
    """Facts, and a question about them.

    Attributes:
      facts: sentences, in their order.
      question: with its question mark.
      answer: one of the task's labels.
    """

    facts: tuple[str, ...]
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the tasks.

    Attributes:
      number: bAbI's.
      labels: all possible answers.
      instruction: what a model is told of it.
    """

    number: int
    labels: tuple[str, ...]
    instruction: str

    @property
    def name(self) -> str:
        """Such as QA1."""
        return f"QA{self.number}"

    @property
    def chance(self) -> float:
        """Share of right answers among labels drawn at random."""
        return 1 / len(self.labels)


TASKS = {
    task.number: task
    for task in (
        Task(1, ROOMS, "Between other sentences, each text tells where people went."),
        Task(
            2,
            ROOMS,
            "Between other sentences, each text tells where people went, and what they took with "
            "them and put down.",
        ),
        Task(
            3,
            ROOMS,
            "Between other sentences, each text tells where people went, and what they took with "
            "them and put down. Each question is about the place of a thing before it came to "
            "another place.",
        ),
        Task(
            4, ROOMS, "Between other sentences, each text tells how places lie next to each other."
        ),
        Task(
            5,
            (*GIVERS, *THINGS),
            "Between other sentences, each text tells who gave what to whom. The last gift that "
            "fits a question counts.",
        ),
    )
}


@runtime_checkable
class Stories(Protocol):
    """Where stories are from."""

    @property
    def name(self) -> str:
        """For tables and rows."""

    def digest(self, task: Task) -> str | None:
        """Tells the stories of a task from others of the same name; None: they have no file."""

    def numbers(self, task: Task, *, seed: int) -> Iterable[int]:
        """Numbers of stories of a task, in the order in which they are asked."""

    def story(self, task: Task, number: int, *, seed: int) -> Story:
        """One of them."""


def stories_in_order(stories: Stories, task: Task, *, seed: int) -> Iterator[tuple[int, Story]]:
    """Stories of a task with their numbers, in the order in which they are asked."""
    for number in stories.numbers(task, seed=seed):
        yield number, stories.story(task, number, seed=seed)
