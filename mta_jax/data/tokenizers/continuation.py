"""Tokens of a text that is cut in two."""

from collections.abc import Sequence

import numpy as np

from mta_jax.data.tokenizers.protocol import Tokenizer

# Characters before the cut that decide how the text behind it is encoded, and many more.
_TAIL = 200


def split_tokens(
    tokenizer: Tokenizer, prompt: str, continuations: Sequence[str]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tokens of a prompt, and what continuations add to them where both are encoded together.

    What one adds are the tokens of both texts after as many as the prompt has, as in
    lm-evaluation-harness, so that spaces belong to the words behind them; where that is none, as
    the last token of the prompt took it in, the tokens of the continuation alone.

    Args:
      tokenizer: the tokenizer.
      prompt: the text before the cut. Of a long one only the end is encoded again.
      continuations: texts behind it.

    Returns:
      Token ids of the prompt, and of each continuation.

    Example:
      >>> from mta_jax.data import ByteTokenizer
      >>> prompt, (answer,) = split_tokens(ByteTokenizer(), "2 + 2 =", [" 4"])
      >>> len(prompt), answer.tolist()
      (7, [32, 52])
    """
    given = tokenizer.encode(prompt)
    tail, num_known = _tail(tokenizer, prompt, given)
    added = []
    for continuation in continuations:
        tokens = tokenizer.encode(tail + continuation)[num_known:]
        added.append(tokens if len(tokens) else tokenizer.encode(continuation))
    return given, added


def _tail(tokenizer: Tokenizer, prompt: str, given: np.ndarray) -> tuple[str, int]:
    """The end of a prompt, if its tokens alone are the prompt's last, and their number."""
    cut = prompt.rfind(" ", 0, max(len(prompt) - _TAIL, 0))
    # The space belongs to the word behind it, or every text begins with one.
    for tail in (prompt[cut:], prompt[cut + 1 :]) if cut > 0 else ():
        known = tokenizer.encode(tail)
        if 0 < len(known) <= len(given) and np.array_equal(given[-len(known) :], known):
            return tail, len(known)
    return prompt, len(given)
