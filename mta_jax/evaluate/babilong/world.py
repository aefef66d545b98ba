"""A small world of people, rooms and things, and the sentences that tell what happens in it."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mta_jax.evaluate.babilong.tasks import ROOMS, THINGS

MOVED = ("moved to", "went to", "went back to", "journeyed to", "travelled to")
TOOK = ("got", "took", "grabbed", "picked up")
DROPPED = ("dropped", "left", "discarded", "put down")
GAVE = ("gave", "handed", "passed")

Item = TypeVar("Item")


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of them at random."""
    return items[int(rng.integers(len(items)))]


class World:
    """People who move between rooms, take, drop and give things.

    All are somewhere from the beginning on, but only what is told is known.

    Args:
      people: their names.
      rng: decides what happens.

    Attributes:
      facts: what was told.
      places: room of each person that is known.
      paths: rooms that each thing was in since it was first taken, None where that is not known.
      gifts: giver, thing and receiver, in their order.
    """

    def __init__(self, people: Sequence[str], rng: np.random.Generator) -> None:
        self._rng = rng
        self._rooms = {person: pick(rng, ROOMS) for person in people}
        self._lying = {thing: pick(rng, ROOMS) for thing in THINGS}
        self._holders: dict[str, str] = {}
        self.facts: list[str] = []
        self.places: dict[str, str] = {}
        self.paths: dict[str, list[str | None]] = {}
        self.gifts: list[tuple[str, str, str]] = []

    def move(self) -> None:
        """Somebody goes to another room, with what they hold."""
        person = pick(self._rng, list(self._rooms))
        room = pick(self._rng, [room for room in ROOMS if room != self._rooms[person]])
        self._rooms[person] = self.places[person] = room
        for thing, holder in self._holders.items():
            if holder == person:
                self._note(thing, room)
        self._tell(f"{person} {pick(self._rng, MOVED)} the {room}.")

    def handle(self) -> bool:
        """Somebody takes or drops a thing, if anybody can. Returns whether they did."""
        ways = [*self._holders.items()]
        ways += [
            (thing, person)
            for thing, room in self._lying.items()
            for person in self._rooms
            if self._rooms[person] == room
        ]
        if not ways:
            return False
        thing, person = pick(self._rng, ways)
        if thing in self._holders:
            del self._holders[thing]
            self._lying[thing] = self._rooms[person]
            verbs = DROPPED
        else:
            del self._lying[thing]
            self._holders[thing] = person
            verbs = TOOK
        self._note(thing, self.places.get(person))
        there = pick(self._rng, ("", " there"))
        self._tell(f"{person} {pick(self._rng, verbs)} the {thing}{there}.")
        return True

    def give(self) -> bool:
        """Somebody gives a thing to somebody beside them, if anybody can."""
        ways = [
            (giver, thing, receiver)
            for (thing, giver), receiver in itertools.product(self._holders.items(), self._rooms)
            if receiver != giver and self._rooms[receiver] == self._rooms[giver]
        ]
        if not ways:
            return False
        giver, thing, receiver = pick(self._rng, ways)
        self._holders[thing] = receiver
        self.gifts.append((giver, thing, receiver))
        self._tell(f"{giver} {pick(self._rng, GAVE)} the {thing} to {receiver}.")
        return True

    def place_of(self, thing: str) -> str:
        """Where a thing is, told or not."""
        holder = self._holders.get(thing)
        return self._lying[thing] if holder is None else self._rooms[holder]

    def _note(self, thing: str, room: str | None) -> None:
        path = self.paths.setdefault(thing, [])
        if not path or path[-1] != room:
            path.append(room)

    def _tell(self, fact: str) -> None:
        self.facts.append(fact)
