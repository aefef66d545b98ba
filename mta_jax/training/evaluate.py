"""Held-out figures of a model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mta_jax.data import Batch, HeldOut
from mta_jax.typing import Array


def evaluate(
    eval_step: Callable[[Any, Batch], Mapping[str, Array]],
    params: Any,
    held_out: HeldOut,
    *,
    whole_answers: bool,
) -> dict[str, float]:
    """Runs over every token of a held-out set once.

    Args:
      eval_step: see `make_eval_step`.
      params: parameters of the model.
      held_out: the set.
      whole_answers: each row asks for one answer (the toy task).

    Returns:
      ``loss`` in nats per token; with `whole_answers` also ``error``, the share of
      rows whose answer is not right in every token; for text ``perplexity`` per
      token and ``bits_per_byte``.
    """
    sums: dict[str, np.float64] = {}
    for batch in held_out.batches:
        for name, value in jax.device_get(eval_step(params, batch)).items():
            # Float64 on the host: a sum over millions of tokens keeps its digits.
            sums[name] = sums.get(name, np.float64(0)) + np.float64(value)
    loss = float(sums["nll"] / sums["tokens"])
    figures = {"loss": loss}
    if whole_answers:
        figures["error"] = float(sums["wrong_rows"] / sums["rows"])
    if held_out.num_bytes is not None:
        # The largest number that a float holds is near exp(709).
        figures["perplexity"] = math.exp(min(loss, 700.0))
        figures["bits_per_byte"] = float(sums["nll"] / (math.log(2) * held_out.num_bytes))
    return figures
