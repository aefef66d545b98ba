"""The strided protocol: every token of a document once, with a past of its own."""

from collections.abc import Iterable, Iterator

import numpy as np

from mta_jax.data import Batch

# Rows are padded to one of few lengths, each of which is compiled once.
_SHORTEST = 64


def strided_batches(
    documents: Iterable[np.ndarray], *, length: int, stride: int, rows: int
) -> Iterator[Batch]:
    """Windows over documents, each document alone in its rows.

    A window begins every `stride` tokens. In the first of a document every token counts,
    in the others those that no window before has: so each counts once, and sees at least
    ``length - stride`` tokens before it, or all there are.

    Args:
      documents: each int32 [tokens, 2]: its tokens, begin and end included, and 1 where one is
        scored, 0 where it is given.
      length: longest row.
      stride: tokens between the beginnings of windows, at most `length`.
      rows: rows of a batch.

    Yields:
      Batches of `inputs`, `targets` and `targets_weights`, [rows, length or less].
    """
    waiting: dict[int, list[tuple[np.ndarray, int]]] = {}
    for tokens in documents:
        for window, num_context in _windows(tokens, length, stride):
            padded = _padded_length(len(window) - 1, length)
            bucket = waiting.setdefault(padded, [])
            bucket.append((window, num_context))
            if len(bucket) == rows:
                yield _batch(bucket, padded, rows)
                bucket.clear()
    for padded, bucket in waiting.items():
        if bucket:
            yield _batch(bucket, padded, rows)


def _windows(tokens: np.ndarray, length: int, stride: int) -> Iterator[tuple[np.ndarray, int]]:
    """Windows of tokens, and how many of their targets an earlier window has counted."""
    num_targets = len(tokens) - 1
    counted = start = 0
    while counted < num_targets:
        end = min(start + length, num_targets)
        yield tokens[start : end + 1], counted - start
        counted, start = end, start + stride


def _padded_length(size: int, length: int) -> int:
    padded = _SHORTEST
    while padded < size:
        padded *= 2
    return min(padded, length)


def _batch(windows: list[tuple[np.ndarray, int]], length: int, rows: int) -> Batch:
    shape = (rows, length)
    batch = {
        "inputs": np.zeros(shape, np.int32),
        "targets": np.zeros(shape, np.int32),
        "targets_weights": np.zeros(shape, np.float32),
    }
    for row, (window, num_context) in enumerate(windows):
        size = len(window) - 1
        batch["inputs"][row, :size] = window[:-1, 0]
        batch["targets"][row, :size] = window[1:, 0]
        batch["targets_weights"][row, num_context:size] = window[num_context + 1 :, 1]
    return batch
