"""Held-out figures of a model."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from mta_jax.data import Batch, Tokenizer
from mta_jax.errors import UserError
from mta_jax.typing import Array

EvalStep = Callable[[Any, Batch], Mapping[str, Array]]


@dataclasses.dataclass
class Totals:
    """Sums over held-out tokens.

    Attributes:
      nll: negative log-likelihood in nats.
      tokens: how many were predicted.
      text_bytes: bytes of text that these tokens stand for.
      rows: rows with any target.
      wrong_rows: those in which any target is not the likeliest token. As every token
        before an error is given, that is the share of answers that greedy decoding
        gets wrong.
    """

    nll: float = 0.0
    tokens: int = 0
    text_bytes: int = 0
    rows: int = 0
    wrong_rows: int = 0

    def add(self, batch: Batch, scores: Mapping[str, np.ndarray], byte_lengths: np.ndarray) -> None:
        """Adds the targets of a batch that have a weight above zero.

        Args:
          batch: `targets` and `targets_weights`, [B, T].
          scores: `nll` and `is_right`, [B, T].
          byte_lengths: bytes of text of each token of the vocabulary.
        """
        counts = batch["targets_weights"] > 0
        # Float64: a sum over millions of tokens keeps its digits.
        self.nll += float(np.sum(scores["nll"][counts], dtype=np.float64))
        self.tokens += int(counts.sum())
        self.text_bytes += int(byte_lengths[batch["targets"][counts]].sum())
        self.rows += int(counts.any(axis=1).sum())
        self.wrong_rows += int((counts & ~scores["is_right"]).any(axis=1).sum())

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Per token."""
        # The largest number that a float holds is near exp(709).
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text, which tokenizers cannot change the meaning of."""
        return self.nll / (math.log(2) * self.text_bytes)


def total(
    eval_step: EvalStep, params: Any, batches: Iterable[Batch], tokenizer: Tokenizer, *, name: str
) -> Totals:
    """Runs over held-out batches.

    Args:
      eval_step: see `make_eval_step`.
      params: parameters of the model.
      batches: the batches.
      tokenizer: tells the bytes of tokens.
      name: of the held-out set, for messages.

    Raises:
      UserError: where the batches hold no token.
    """
    totals = Totals()
    for batch in batches:
        scores = jax.device_get(eval_step(params, batch))
        totals.add(batch, scores, tokenizer.byte_lengths)
    if not totals.tokens:
        raise UserError(f"held-out set {name}: holds no token")
    if not totals.text_bytes:
        raise UserError(f"held-out set {name}: none of its tokens stands for any text")
    return totals


def figures_of(totals: Totals, *, whole_answers: bool) -> dict[str, float]:
    """What is reported of a held-out set.

    Args:
      totals: the sums.
      whole_answers: each row asks for one answer (the toy task).

    Returns:
      ``loss`` in nats per token, and ``error``, the share of rows whose answer is not
      right in every token, or ``perplexity`` per token and ``bits_per_byte``.
    """
    if whole_answers:
        return {"loss": totals.loss, "error": totals.wrong_rows / totals.rows}
    return {
        "loss": totals.loss,
        "perplexity": totals.perplexity,
        "bits_per_byte": totals.bits_per_byte,
    }
