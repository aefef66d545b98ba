"""Answers questions of the five tasks from their sentences alone, by what bAbI means by them.

What happened last counts: bAbI asks about the last gift that fits a question, and about the last
time that an object came to a room.
"""

import itertools
import re

MOVE = re.compile(r"(\w+) (?:moved|went|went back|journeyed|travelled) to the (\w+)\.")
TAKE = re.compile(r"(\w+) (?:got|took|grabbed|picked up) the (\w+)(?: there)?\.")
DROP = re.compile(r"(\w+) (?:dropped|left|discarded|put down) the (\w+)(?: there)?\.")
GIVE = re.compile(r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\.")
PLACE = re.compile(r"The (\w+) is (north|south|east|west) of the (\w+)\.")
KINDS = (MOVE, TAKE, DROP, GIVE, PLACE)
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def answers(facts: list[str], question: str) -> list[str]:
    """All that the question may mean, the last one last."""
    places: dict[str, str] = {}
    holders: dict[str, str] = {}
    paths: dict[str, list[str | None]] = {}
    gifts: list[tuple[str, str, str]] = []
    relations: list[tuple[str, str, str]] = []

    def note(thing: str, place: str | None) -> None:
        path = paths.setdefault(thing, [])
        if not path or path[-1] != place:
            path.append(place)

    for fact in facts:
        if match := MOVE.fullmatch(fact):
            person, room = match.groups()
            places[person] = room
            for thing in [thing for thing, holder in holders.items() if holder == person]:
                note(thing, room)
        elif match := TAKE.fullmatch(fact):
            person, thing = match.groups()
            holders[thing] = person
            note(thing, places.get(person))
        elif match := DROP.fullmatch(fact):
            person, thing = match.groups()
            assert holders.pop(thing, person) == person
            note(thing, places.get(person))
        elif match := GIVE.fullmatch(fact):
            giver, thing, receiver = match.groups()
            holders[thing] = receiver
            gifts.append((giver, thing, receiver))
        elif match := PLACE.fullmatch(fact):
            first, direction, second = match.groups()
            relations += [(first, direction, second), (second, OPPOSITE[direction], first)]
        else:
            raise AssertionError(f"no fact: {fact}")

    if match := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question):
        path = paths[match[1]]
        return [before for before, room in itertools.pairwise(path) if room == match[2]]
    if match := re.fullmatch(r"Where is the (\w+)\?", question):
        return paths[match[1]][-1:]
    if match := re.fullmatch(r"Where is (\w+)\?", question):
        return [places[match[1]]]
    if match := re.fullmatch(r"What is the (\w+) (\w+) of\?", question):
        return [second for first, where, second in relations if (first, where) == match.groups()]
    if match := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
        return [first for first, *rest in relations if tuple(rest) == match.groups()]
    if match := re.fullmatch(r"What did (\w+) give to (\w+)\?", question):
        return [thing for giver, thing, to in gifts if (giver, to) == match.groups()]
    if match := re.fullmatch(r"Who gave the (\w+) to (\w+)\?", question):
        return [giver for giver, *rest in gifts if tuple(rest) == match.groups()]
    if match := re.fullmatch(r"Who did (\w+) give the (\w+) to\?", question):
        return [to for giver, thing, to in gifts if (giver, thing) == match.groups()]
    if match := re.fullmatch(r"Who gave the (\w+)\?", question):
        return [giver for giver, thing, _ in gifts if thing == match[1]]
    if match := re.fullmatch(r"Who received the (\w+)\?", question):
        return [to for _, thing, to in gifts if thing == match[1]]
    raise AssertionError(f"no question: {question}")


def facts_in(text: str) -> list[str]:
    """The facts among other sentences."""
    one = "|".join(kind.pattern for kind in KINDS)
    return [match[0] for match in re.finditer(rf"\b(?:{one})", text)]


def answer_of(prompt: str) -> str:
    """What follows a prompt, by the facts in it."""
    context, _, question = (
        prompt.rpartition("\n\n")[2].removesuffix("\nAnswer:").partition("\nQuestion: ")
    )
    return f" {answers(facts_in(context), question)[-1]}."
