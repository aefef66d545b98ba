"""The paper's toy task: find the block that holds two given letters (section 4.1).

A sample reads ``hjnvt.qfzwb.aprux.bkdle#pr`` and continues with the answer ``aprux``:
blocks of distinct letters, a question of two letters in any order that exactly one
block contains, then that block (or only its first or last letter). An attention
weight of an ordinary Transformer sees one letter of the block at a time, and the
two letters have to meet somewhere; a key-query convolution brings them together.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from mta_jax.data.tokenizers import LetterTokenizer

NUM_LETTERS = 26
_SPLITS = {"train": 0, "heldout": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSearchConfig:
    """Block search. The defaults are the paper's task with blocks of five letters."""

    block_size: int = 5
    """Letters per block, all different; the paper has 5 and 8."""

    num_question_letters: int = 2
    """Letters in the question."""

    answer: Literal["all", "first", "last"] = "all"
    """Answer with the whole block, or its first or last letter."""

    sequence_length: int = 321
    """Tokens of a sample, its begin and end included. The paper's 321 hold 52 blocks
    of five letters, or 34 of eight and a cut one that is never the answer; one more
    each where the answer is one letter."""

    num_train_samples: int = 1_000_000
    """Training samples before they repeat. They are generated as they are needed."""

    num_heldout_samples: int = 1_000
    """Held-out samples; each evaluation counts all of them."""

    def __post_init__(self) -> None:
        if not 1 <= self.block_size <= NUM_LETTERS:
            raise ValueError(
                f"data.block_search.block_size {self.block_size}: a block has 1 to {NUM_LETTERS} "
                "different letters"
            )
        if not 1 <= self.num_question_letters <= self.block_size:
            raise ValueError(
                f"data.block_search.num_question_letters {self.num_question_letters}: must be in "
                f"1..{self.block_size}, the letters of a block"
            )
        for name in ("num_train_samples", "num_heldout_samples"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"data.block_search.{name} {getattr(self, name)}: must be at least 1"
                )
        if self.context_length < self.block_size:
            needed = self.sequence_length - self.context_length + self.block_size
            raise ValueError(
                f"data.block_search.sequence_length {self.sequence_length}: too short for a block "
                f"of {self.block_size} letters, needs at least {needed}"
            )
        # Distractors are drawn until they miss a question letter and differ from
        # each other. Asking for most of those that exist would take for ever.
        if self.num_blocks > 1 and self.num_blocks > self._num_distractors() / 2:
            raise ValueError(
                f"data.block_search.sequence_length {self.sequence_length} needs "
                f"{self.num_blocks} blocks of {self.block_size} letters, too many of the "
                f"{self._num_distractors()} that lack a question letter: shorten the sequence or "
                "change block_size"
            )

    @property
    def answer_length(self) -> int:
        """Letters of the answer."""
        return self.block_size if self.answer == "all" else 1

    @property
    def context_length(self) -> int:
        """Characters before the question: blocks with separators between them."""
        # Begin and end of the sample, and "#" before the question.
        return self.sequence_length - 3 - self.num_question_letters - self.answer_length

    @property
    def num_blocks(self) -> int:
        """Blocks in a sample, counting one that the end of the context cuts."""
        return math.ceil(self.context_length / (self.block_size + 1))

    @property
    def num_complete_blocks(self) -> int:
        """Blocks that the end of the context leaves whole."""
        return (self.context_length + 1) // (self.block_size + 1)

    def _num_distractors(self) -> int:
        """How many different blocks lack at least one letter of a question."""
        asked = self.num_question_letters
        with_all = math.comb(NUM_LETTERS - asked, self.block_size - asked) * math.factorial(
            self.block_size
        )
        return math.perm(NUM_LETTERS, self.block_size) - with_all


class BlockSearchSource:
    """Random-access source of samples, generated on the fly.

    Sample i of a split depends on (seed, split, i) only.

    Args:
      config: the task.
      split: "train" or "heldout"; the two never share a random stream.
      seed: of the random numbers.

    Example:
      >>> config = BlockSearchConfig(sequence_length=33)
      >>> sample = BlockSearchSource(config, split="train", seed=0)[0]
      >>> LetterTokenizer().decode(sample["inputs"])
      'teklz.kyntv.lfaov.sowkb#lkteklz'
      >>> sample["targets_weights"].sum()  # five letters and the end
      np.float32(6.0)
    """

    def __init__(self, config: BlockSearchConfig, *, split: Literal["train", "heldout"], seed: int):
        self._config = config
        self._split = split
        self._seed = seed
        self._tokenizer = LetterTokenizer()

    def __len__(self) -> int:
        if self._split == "train":
            return self._config.num_train_samples
        return self._config.num_heldout_samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """A sample: `inputs`, `targets` and `targets_weights`, each [sequence_length - 1].

        The weights are 1 on the answer and the end of the sample, 0 elsewhere.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        config, tokenizer = self._config, self._tokenizer
        rng = np.random.default_rng([self._seed, _SPLITS[self._split], int(index)])
        context, question, answer = self._draw(rng)
        tokens = np.concatenate(
            [
                [tokenizer.bos_id],
                context,
                tokenizer.encode("#"),
                question,
                answer,
                [tokenizer.eos_id],
            ]
        ).astype(np.int32)
        weights = np.zeros(config.sequence_length - 1, np.float32)
        weights[-(config.answer_length + 1) :] = 1
        return {"inputs": tokens[:-1], "targets": tokens[1:], "targets_weights": weights}

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Context, question and answer as letter and separator tokens."""
        config = self._config
        size = config.block_size
        target = rng.permutation(NUM_LETTERS)[:size]
        question = rng.permutation(target)[: config.num_question_letters]

        blocks: dict[bytes, np.ndarray] = {}
        missing = config.num_blocks - 1
        while len(blocks) < missing:
            drawn = rng.random((missing, NUM_LETTERS)).argsort(axis=1)[:, :size]
            holds = (drawn[:, :, None] == question).any(axis=1).all(axis=1)
            for block in drawn[~holds]:
                if len(blocks) < missing:
                    blocks.setdefault(block.tobytes(), block)
        ordered = list(blocks.values())
        # Only among the complete blocks: an answer that is cut off can't be given.
        ordered.insert(int(rng.integers(config.num_complete_blocks)), target)

        separators = np.full((config.num_blocks, 1), self._tokenizer.alphabet.index("."))
        context = np.concatenate([np.stack(ordered), separators], axis=1).reshape(-1)
        answer = {"all": target, "first": target[:1], "last": target[-1:]}[config.answer]
        return context[: config.context_length], question, answer
