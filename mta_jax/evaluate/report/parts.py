"""What is too much for one picture, in parts."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def in_parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """So many at a time, in their order; the last part may be smaller."""
    everything = list(items)
    for start in range(0, len(everything), size):
        yield everything[start : start + size]
