"""Attention to one sample, run by run."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np

from mta_jax import viz
from mta_jax.command_line.plain import plain
from mta_jax.data import Tokenizer, tokenizer_for
from mta_jax.errors import ConfigError
from mta_jax.evaluate.report.document import Block, Picture, drawn
from mta_jax.evaluate.report.parts import in_parts
from mta_jax.evaluate.report.runs import Run
from mta_jax.training.learned_kernels import CONVOLUTIONS, learned_kernels
from mta_jax.training.saved_weights import SavedWeights, check_tokenizer
from mta_jax.training.toy_attention import ToySample

MOST_TOKENS = 64
"""Of a prompt that can be drawn."""

_MOST_HEADS = 4

# Maps in a picture, and letters that are shown on each side of the block that answers.
_MAPS, _AROUND = 4, 34


class ToyAttention:
    """Attention of runs that learned block search: one picture for those of the same task."""

    def __init__(self) -> None:
        self._samples: dict[str, ToySample] = {}
        self._maps: dict[str, dict[str, np.ndarray]] = {}

    def add(self, run: Run, saved: SavedWeights) -> None:
        """Looks at the sample of the first run of the same task."""
        task = run.config.data.block_search
        # How many samples there are makes no other one.
        settings = {**plain(task), "num_train_samples": None, "num_heldout_samples": None}
        key = json.dumps(settings)
        if key not in self._samples:
            self._samples[key] = ToySample.of(task, seed=run.config.seed)
        where, weights = self._samples[key].best_map(saved.program, saved.params)
        self._maps.setdefault(key, {})[f"{run.name}: {where}"] = weights

    def blocks(self) -> list[Block]:
        """The pictures."""
        found: list[Block] = []
        for key, sample in self._samples.items():
            for titles in in_parts(self._maps[key], _MAPS):
                figure = sample.draw(
                    {title: self._maps[key][title] for title in titles}, around=_AROUND
                )
                caption = (
                    f"One held-out sample, question {sample.question}, answer {sample.answer}: of "
                    "each run the head that best follows the answer through its block. Queries are "
                    "the letters of question and answer, keys those around the block."
                )
                found.append(drawn("attention-block-search", figure, caption))
        return found


def prompt_tokens(run: Run, prompt: str) -> tuple[Tokenizer, np.ndarray]:
    """A prompt as the tokens of a run, int32 [tokens], after that which begins a document.

    Raises:
      ConfigError: where there are too many to be drawn, or its tokenizer cannot be used.
    """
    tokenizer = tokenizer_for(run.config.data)
    tokens = np.concatenate([[tokenizer.bos_id], tokenizer.encode(prompt)]).astype(np.int32)
    if len(tokens) > MOST_TOKENS:
        raise ConfigError(
            f"prompt: has {len(tokens)} tokens with the tokenizer of {run.name}; at most "
            f"{MOST_TOKENS} can be drawn"
        )
    return tokenizer, tokens


def text_attention(run: Run, saved: SavedWeights, prompt: str) -> Picture:
    """Attention of a run to a prompt: a few heads of one layer.

    The layer is the last one with a key-query convolution, or the last. Its heads are those that
    give least to the first token and to a token itself, which tells nothing of the text.

    Raises:
      ConfigError: where the prompt is too long, or the tokenizer another one than it was.
    """
    tokenizer, tokens = prompt_tokens(run, prompt)
    check_tokenizer(saved, tokenizer, "runs")
    weights = saved.program.model(saved.params).attention_weights(jnp.asarray(tokens)[None])
    convolved = [layer for layer, place in learned_kernels(saved.params) if place in CONVOLUTIONS]
    layer = max(convolved, default=len(weights) - 1)
    maps = np.asarray(weights[layer][0], np.float32)
    heads = telling_heads(maps)
    labels = [token_label(tokenizer, token) for token in tokens]
    figure = viz.attention_maps(
        # The first token sees itself alone, which would set the scale.
        {f"{run.name}: layer {layer}, head {head}": maps[head, 1:] for head in heads},
        keys=labels,
        queries=labels[1:],
        columns=min(len(heads), 2),
    )
    which = f"all {len(maps)} heads" if len(heads) == len(maps) else f"{len(heads)} of {len(maps)} "
    if len(heads) < len(maps):
        which += "heads, those that look least at the first token and at themselves"
    caption = f"{run.name}: attention to the prompt {prompt!r}, layer {layer}, {which}."
    return drawn(f"attention-{run.name}", figure, caption)


def telling_heads(maps: np.ndarray) -> list[int]:
    """Up to four heads whose weights lie between the first token and the query's own.

    Args:
      maps: [heads, queries, keys].
    """
    between = np.tril(np.ones(maps.shape[1:], bool), -1)
    between[:, 0] = False
    scores = np.abs(maps).sum(axis=(1, 2), where=between)
    return sorted(np.argsort(-scores, kind="stable")[:_MOST_HEADS].tolist())


def token_label(tokenizer: Tokenizer, token: Any) -> str:
    """A token as it can be seen, spaces included."""
    special = {tokenizer.bos_id: "<bos>", tokenizer.eos_id: "<eos>"}
    text = special.get(int(token)) or tokenizer.decode([int(token)])
    return "".join(_visible(character) for character in text) or "<>"


def _visible(character: str) -> str:
    if character == " ":
        return "\N{OPEN BOX}"
    # What the font of pictures has; other scripts would be boxes.
    is_drawn = character.isprintable() and ord(character) < 0x500
    return character if is_drawn else character.encode("unicode_escape").decode()
