"""Text of tokens as they come: what can be shown already, and where a stop string ends it."""

from collections.abc import Callable, Sequence

import numpy as np

from mta_jax.data import Tokenizer
from mta_jax.inference import Continuation

# What decoding puts for bytes that are no character, such as the first of several.
_INCOMPLETE = "\ufffd"


class TextWatch:
    """Follows continuations as a decoder writes them; it is the decoder's `watch`.

    Args:
      tokenizer: tokens to text.
      prompts: tokens before each continuation.
      stop: strings that end a text.
      on_text: called with the number of a text and what is new at its end.

    Attributes:
      texts: of each continuation, without the stop string.
      has_stopped: which have met one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[np.ndarray],
        *,
        stop: Sequence[str] = (),
        on_text: Callable[[int, str], None] | None = None,
    ):
        self._tokenizer = tokenizer
        self._prompts = prompts
        # Some tokenizers drop a space in front of the first token: text is what comes to the
        # prompt's.
        self._before = [len(tokenizer.decode(prompt)) for prompt in prompts]
        self._stop = stop
        self._on_text = on_text
        self._num_shown = [0] * len(prompts)
        self.texts = [""] * len(prompts)
        self.has_stopped = [False] * len(prompts)

    def __call__(self, continuations: Sequence[Continuation]) -> list[bool]:
        """Takes what is new; returns which texts have met a stop string."""
        for number, continuation in enumerate(continuations):
            if self.has_stopped[number]:
                continue
            text = self._text_of(number, continuation.tokens)
            end = _first(text, self._stop)
            if end is not None:
                text, self.has_stopped[number] = text[:end], True
            self.texts[number] = text
            is_whole = end is not None or continuation.finish is not None
            self._show(number, text if is_whole else _certain(text, self._stop))
        return self.has_stopped

    def _text_of(self, number: int, tokens: np.ndarray) -> str:
        whole = self._tokenizer.decode(np.concatenate([self._prompts[number], tokens]))
        return whole[self._before[number] :]

    def _show(self, number: int, text: str) -> None:
        new = text[self._num_shown[number] :]
        if new and self._on_text is not None:
            self._num_shown[number] = len(text)
            self._on_text(number, new)


def _first(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return min(places, default=None)


def _certain(text: str, stop: Sequence[str]) -> str:
    """The text without an end that may become another character or a stop string."""
    text = text.rstrip(_INCOMPLETE)
    longest = max((len(string) for string in stop), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return text[:-length]
    return text
