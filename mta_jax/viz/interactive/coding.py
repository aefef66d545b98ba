"""Attention weights as text: two characters for each."""

import numpy as np

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""Of base64: the digits of numbers in base 64."""

STEPS = 2047
"""From zero to the largest magnitude."""

# Number of a weight of zero, which therefore stays zero.
_ZERO = STEPS + 1

_DIGITS = np.frombuffer(ALPHABET.encode(), np.uint8)


def coded(weights: np.ndarray) -> tuple[float, str]:
    """A map as text.

    A weight w is the number `round(STEPS * w / limit) + STEPS + 1` in two digits of base 64, so
    that it is off by `limit / STEPS / 2` at most. Rows are separated by commas, and end where
    there are zeros only.

    Args:
      weights: [queries, keys], finite.

    Returns:
      The limit, which is the largest magnitude, and the text.
    """
    limit = float(np.abs(weights).max())
    scaled = weights / limit if limit else weights
    numbers = np.rint(STEPS * scaled).astype(np.int64) + _ZERO
    digits = _DIGITS[np.stack([numbers // 64, numbers % 64], axis=-1)]
    rows = []
    for row, own in zip(numbers, digits, strict=True):
        (filled,) = np.nonzero(row != _ZERO)
        rows.append(own[: filled[-1] + 1 if len(filled) else 0].tobytes().decode())
    return limit, ",".join(rows)
