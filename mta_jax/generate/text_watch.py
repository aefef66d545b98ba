"""Text of tokens as they come: what can be shown already, and where a stop string ends it."""

from collections.abc import Callable, Sequence

import numpy as np

from mta_jax.data import Tokenizer
from mta_jax.inference import Continuation

# What decoding puts for bytes that are no character, such as the first of several.
_INCOMPLETE = "\ufffd"

# More than any character is made of.
_PROMPT_TOKENS = 16


class TextWatch:
    """Follows continuations as a decoder writes them; it is the decoder's `watch`.

    Args:
      tokenizer: tokens to text.
      prompts: tokens before each continuation.
      stop: strings that end a text.
      on_text: called with the number of a text and what is new at its end.
      on_look: called each time, before that.

    Attributes:
      texts: of each continuation, without the stop string.
      has_stopped: which have met one.
      num_tokens: tokens of each, up to the one that completes its stop string.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[np.ndarray],
        *,
        stop: Sequence[str] = (),
        on_text: Callable[[int, str], None] | None = None,
        on_look: Callable[[], None] | None = None,
    ):
        self._tokenizer = tokenizer
        # Some tokenizers drop a space in front of the first token: text is what comes to that of
        # the prompt's last tokens.
        self._prompts = [prompt[-_PROMPT_TOKENS:] for prompt in prompts]
        self._before = [len(tokenizer.decode(prompt)) for prompt in self._prompts]
        self._stop = stop
        self._on_text = on_text
        self._on_look = on_look
        self._num_shown = [0] * len(prompts)
        self.texts = [""] * len(prompts)
        self.has_stopped = [False] * len(prompts)
        self.num_tokens = [0] * len(prompts)

    def __call__(self, continuations: Sequence[Continuation]) -> list[bool]:
        """Takes what is new; returns which texts have met a stop string."""
        if self._on_look is not None:
            self._on_look()
        for number, continuation in enumerate(continuations):
            if self.has_stopped[number]:
                continue
            text = self._text_of(number, continuation.tokens)
            end = _first(text, self._stop)
            if end is not None:
                text, self.has_stopped[number] = text[:end], True
                self.num_tokens[number] = self._until_stop(number, continuation.tokens)
            else:
                self.num_tokens[number] = len(continuation.tokens)
            self.texts[number] = text
            is_whole = end is not None or continuation.finish is not None
            self._show(number, text if is_whole else _certain(text, self._stop))
        return self.has_stopped

    def _until_stop(self, number: int, tokens: np.ndarray) -> int:
        """The fewest tokens that have a stop string; the last look found none."""
        for count in range(self.num_tokens[number] + 1, len(tokens)):
            if _first(self._text_of(number, tokens[:count]), self._stop) is not None:
                return count
        return len(tokens)

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
