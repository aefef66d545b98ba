"""Attention to one sample of the block-search task, and the map that follows its answer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from mta_jax import viz
from mta_jax.data import BlockSearchConfig
from mta_jax.data.block_search import BlockSearchSource
from mta_jax.data.tokenizers import LetterTokenizer
from mta_jax.training.state import Program


@dataclasses.dataclass(frozen=True)
class ToySample:
    """The first held-out sample of a task.

    Attributes:
      tokens: all but the end, int32 [tokens].
      context: the blocks.
      question: its letters.
      answer: its letters.
      start: the first letter in the context of the block that answers.
      block_size: its letters.
    """

    tokens: np.ndarray
    context: str
    question: str
    answer: str
    start: int
    block_size: int

    @classmethod
    def of(cls, task: BlockSearchConfig, *, seed: int) -> "ToySample":
        """The sample of a task for one seed."""
        tokens = BlockSearchSource(task, split="heldout", seed=seed)[0]["inputs"]
        letters = LetterTokenizer().decode(tokens)
        context, rest = letters[: task.context_length], letters[task.context_length + 1 :]
        question, answer = rest[: task.num_question_letters], rest[task.num_question_letters :]
        # Of all blocks only the answer holds every letter of the question.
        blocks = context.split(".")
        target = next(i for i, block in enumerate(blocks) if set(question) <= set(block))
        start = target * (task.block_size + 1)
        return cls(tokens, context, question, answer, start, task.block_size)

    def best_map(self, program: Program, params: Any) -> tuple[str, np.ndarray]:
        """The attention map that best follows the answer through its block, letter by letter.

        A head that always looks at the first token may happen to look at the block.

        Returns:
          Its layer and head in words, and its weights, [queries, keys]: queries from "#" on, keys
          of the context.
        """
        # Tokens are shifted by the begin token; queries start at "#".
        length = len(self.context)
        keys, queries = slice(1, 1 + length), slice(1 + length, None)
        weights = program.model(params).attention_weights(jnp.asarray(self.tokens)[None])
        candidates = {
            (layer, head): np.asarray(weights[layer][0, head], np.float32)[queries, keys]
            for layer in range(len(weights))
            for head in range(weights[layer].shape[1])
        }
        rows = slice(-len(self.answer), None)
        block = slice(self.start, self.start + self.block_size)
        scores = {which: _best_diagonal(x[rows, block]) for which, x in candidates.items()}
        layer, head = max(scores, key=lambda which: scores[which])
        return f"layer {layer}, head {head}", candidates[layer, head]

    def draw(self, maps: Mapping[str, np.ndarray], *, around: int | None = None) -> Figure:
        """Attention maps with their letters, the block that answers framed.

        Args:
          maps: [queries, keys], as of `best_map`, by their titles.
          around: letters of the context to show on each side of the block; None: all.
        """
        first, last = 0, len(self.context)
        if around is not None:
            first = max(self.start - around, 0)
            last = min(self.start + self.block_size + around, last)
        return viz.attention_maps(
            {title: weights[:, first:last] for title, weights in maps.items()},
            keys=list(self.context[first:last]),
            queries=["#", *self.question, *self.answer],
            marked=(self.start - first, self.start - first + self.block_size),
            marked_label="framed: the block that answers the question",
        )


def _best_diagonal(weights: np.ndarray) -> float:
    """The largest sum along a diagonal of [queries, keys]."""
    num_queries, num_keys = weights.shape
    return max(float(weights.trace(offset)) for offset in range(1 - num_queries, num_keys))
