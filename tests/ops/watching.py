"""Which implementations serve the calls of a program."""

from collections.abc import Callable
from typing import Any

from mta_jax.ops.multi_token_attention.api import IMPLEMENTATIONS


def watched(names: list[str]) -> dict[str, Callable[..., Any]]:
    """Implementations that do what they do and then add their name to `names`."""

    def watch(name: str, attend: Callable[..., Any]) -> Callable[..., Any]:
        def call(args: Any) -> Any:
            result = attend(args)
            names.append(name)
            return result

        return call

    return {name: watch(name, attend) for name, attend in IMPLEMENTATIONS.items()}
