"""Likelihoods of whole texts, each token once, with as much before it as the model reads."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from lm_eval.utils import get_rolling_token_windows

from mta_jax.evaluate.text_model import Advance, in_batches
from mta_jax.generate.language_model import LanguageModel
from mta_jax.inference.decoding import bucket
from mta_jax.training.loss import scored_tokens
from mta_jax.typing import Array, Float, Int

# Logits of more tokens of a large vocabulary would fill a device.
_TOKENS_AT_ONCE = 4096


def rolling_log_probs(
    model: LanguageModel,
    texts: Sequence[np.ndarray],
    *,
    context_length: int,
    batch_size: int,
    advance: Advance | None = None,
) -> list[float]:
    """Log-probability of each text in nats; its end is not predicted.

    Windows follow each other without overlap but for the last one of a text, which begins
    earlier, so that it is full; only tokens that no window before has are counted in it.

    Args:
      model: the model.
      texts: token ids of each, without begin and end.
      context_length: tokens of a window. The first one of a text begins with the begin token.
      batch_size: windows at a time.
      advance: is told how many more windows are done.
    """
    windows = [
        (place, window, num_context)
        for place, tokens in enumerate(texts)
        for window, num_context in _windows(tokens, model.tokenizer.bos_id, context_length)
    ]
    totals = [0.0] * len(texts)
    for numbers in in_batches([len(window) for _, window, _ in windows], batch_size):
        batch = [windows[number] for number in numbers]
        # The longest comes first.
        length = min(bucket(len(batch[0][1]) - 1), context_length)
        tokens = np.zeros((batch_size, length + 1), np.int32)
        for row, (_, window, _) in zip(tokens, batch, strict=False):
            row[: len(window)] = window
        nll = jax.device_get(
            _nll(model.decoder.graphdef, model.decoder.params, tokens[:, :-1], tokens[:, 1:])
        )
        for of_row, (place, window, num_context) in zip(nll, batch, strict=False):
            totals[place] -= float(np.sum(of_row[num_context : len(window) - 1], dtype=np.float64))
        if advance:
            advance(len(numbers))
    return totals


def _windows(tokens: np.ndarray, begin: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """Inputs of a window with the target of the last, and targets that an earlier one has."""
    for inputs, targets in get_rolling_token_windows(
        tokens.tolist(), prefix_token=begin, max_seq_len=length, context_len=1
    ):
        yield np.array([*inputs, targets[-1]], np.int32), len(inputs) - len(targets)


@functools.partial(jax.jit, static_argnums=0)
def _nll(
    graphdef: nnx.GraphDef, params: Any, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    model = nnx.merge(graphdef, params)
    features = model.features(tokens, deterministic=True)
    nll, _ = scored_tokens(model.logits, features, targets, tokens_at_once=_TOKENS_AT_ONCE)
    return nll
