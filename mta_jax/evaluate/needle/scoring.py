"""Which of the numbers that were asked for a model found."""

import re

from mta_jax.data.needles import NeedleContext


def right_in_text(context: NeedleContext, text: str) -> list[bool]:
    """Of each number asked for, whether what a model wrote after the prompt tells it.

    The first number belongs right after the prompt. The others are looked for behind the names
    of their cities, as the needles have them; the first mention of a city counts.
    """
    right = []
    whole = f"{context.cities[0]} is{text}"
    for city, number in context.asked:
        told = re.match(r"\s*(\d+)", whole.partition(f"{city} is")[2])
        right.append(told is not None and told[1] == number)
    return right
