"""Stories in the style of bAbI's tasks 1 to 5, made up.

Each question has one right answer, which follows from what was told. bAbI's own questions about
earlier places and gifts may fit several events, of which it means the last; here all events that
fit have the same answer. Lengths are drawn to be about those of bAbI's files.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from mta_jax.evaluate.babilong.tasks import GIVERS, ROOMS, Story, Task
from mta_jax.evaluate.babilong.world import World, pick

GENERATED = "bAbI-style (generated)"

_MOVERS = ("Daniel", "John", "Mary", "Sandra")
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}

Questions = list[tuple[str, str]]
"""Questions with their answers."""


class GeneratedStories:
    """Stories without end, each made anew from the seed, the task and its number."""

    name = GENERATED

    def digest(self, task: Task) -> None:
        """They have no file."""

    def numbers(self, task: Task, *, seed: int) -> Iterable[int]:
        """0, 1, 2, ..."""
        return itertools.count()

    def story(self, task: Task, number: int, *, seed: int) -> Story:
        """One of them."""
        return generate_story(task.number, np.random.default_rng([seed, task.number, number]))


def generate_story(task: int, rng: np.random.Generator) -> Story:
    """Makes up a story of a task, 1 to 5."""
    if task == 4:
        return _places(rng)
    tell, ask = _TOLD[task]
    while True:
        world = tell(rng)
        questions = ask(world)
        if questions:
            question, answer = pick(rng, questions)
            return Story(tuple(world.facts), question, answer)


def _walks(rng: np.random.Generator) -> World:
    world = World(_MOVERS, rng)
    for _ in range(2 * int(rng.integers(1, 6))):
        world.move()
    return world


def _places_of_people(world: World) -> Questions:
    return [(f"Where is {person}?", room) for person, room in world.places.items()]


def _carrying(rng: np.random.Generator, least: int, mean: int, most: int) -> World:
    world = World(_MOVERS, rng)
    for _ in range(_number(rng, least, mean, most)):
        if rng.random() < 0.6 or not world.handle():
            world.move()
    return world


def _places_of_things(world: World) -> Questions:
    return [
        (f"Where is the {thing}?", world.place_of(thing))
        for thing, path in world.paths.items()
        if path[-1] is not None
    ]


def _earlier_places(world: World) -> Questions:
    questions: Questions = []
    for thing, path in world.paths.items():
        for room in sorted({room for room in path if room is not None}):
            before = {_before(path, place) for place, other in enumerate(path) if other == room}
            answer = before.pop()
            # Known, and the same each time that the thing came there.
            if answer is not None and not before:
                questions.append((f"Where was the {thing} before the {room}?", answer))
    return questions


def _before(path: list[str | None], place: int) -> str | None:
    return path[place - 1] if place else None


def _giving(rng: np.random.Generator) -> World:
    world = World(GIVERS, rng)
    for _ in range(_number(rng, 2, 14, 94)):
        if rng.random() < 0.5 and world.give():
            continue
        if rng.random() < 0.6 or not world.handle():
            world.move()
    return world


def _gifts(world: World) -> Questions:
    answers: dict[str, set[str]] = {}
    for giver, thing, receiver in world.gifts:
        for question, answer in (
            (f"What did {giver} give to {receiver}?", thing),
            (f"Who gave the {thing} to {receiver}?", giver),
            (f"Who did {giver} give the {thing} to?", receiver),
            (f"Who gave the {thing}?", giver),
            (f"Who received the {thing}?", receiver),
        ):
            answers.setdefault(question, set()).add(answer)
    return [(question, min(found)) for question, found in answers.items() if len(found) == 1]


def _places(rng: np.random.Generator) -> Story:
    """Three rooms in a row; "north of" is said of neighbours only, as in bAbI."""
    first, middle, last = (ROOMS[place] for place in rng.permutation(len(ROOMS))[:3])
    direction = pick(rng, list(_OPPOSITE))
    pairs = [(first, direction, middle), (middle, direction, last)]
    rng.shuffle(pairs)
    facts = []
    for pair in pairs:
        one, where, other = _seen_from(pair, rng)
        facts.append(f"The {one} is {where} of the {other}.")
    one, where, other = _seen_from(pick(rng, pairs), rng)
    question, answer = pick(
        rng,
        [(f"What is {where} of the {other}?", one), (f"What is the {one} {where} of?", other)],
    )
    return Story(tuple(facts), question, answer)


def _seen_from(pair: tuple[str, str, str], rng: np.random.Generator) -> tuple[str, str, str]:
    """How two places lie, said of the one or of the other."""
    one, where, other = pair
    return pick(rng, [(one, where, other), (other, _OPPOSITE[where], one)])


def _number(rng: np.random.Generator, least: int, mean: int, most: int) -> int:
    """Few is likelier than many, as in bAbI, where questions follow each other in one story."""
    return min(least - 1 + int(rng.geometric(1 / (mean - least + 1))), most)


def _with_numbers(least: int, mean: int, most: int) -> Callable[[np.random.Generator], World]:
    return lambda rng: _carrying(rng, least, mean, most)


_TOLD: Mapping[int, tuple[Callable[[np.random.Generator], World], Callable[[World], Questions]]] = {
    1: (_walks, _places_of_people),
    2: (_with_numbers(2, 13, 88), _places_of_things),
    3: (_with_numbers(4, 46, 228), _earlier_places),
    5: (_giving, _gifts),
}


def short_stories(task: Task, most: int) -> Iterator[Story]:
    """Stories of at most so many facts, always the same, without end."""
    stories = GeneratedStories()
    for number in stories.numbers(task, seed=0):
        story = stories.story(task, number, seed=0)
        if len(story.facts) <= most:
            yield story
