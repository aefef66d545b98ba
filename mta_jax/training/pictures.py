"""The pictures that a run leaves in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from mta_jax import viz
from mta_jax.data import BlockSearchConfig
from mta_jax.data.block_search import BlockSearchSource
from mta_jax.training.loop import Result


def save_pictures(results: Mapping[str, Result], folder: Path) -> list[Path]:
    """Draws what the runs learned: curves, kernels, and for the toy task attention.

    Args:
      results: finished runs by name, all on the same data.
      folder: where the PNG files go.

    Returns:
      The files.
    """
    first = next(iter(results.values()))
    figures = {"curves": _curves(results)}
    for name, result in results.items():
        kernels = _kernels(result.params)
        if kernels:
            padding = result.program.config.model.mta.key_padding
            figures[f"kernels_{name}"] = viz.key_query_kernels(kernels, key_padding=padding)
    is_toy = first.program.config.data.source == "block_search"
    # Only one process draws, and the weights of attention need all of them.
    if is_toy and jax.process_count() == 1:
        figures["attention"] = _toy_attention(results)

    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths


def _curves(results: Mapping[str, Result]) -> Figure:
    first = next(iter(results.values()))
    figures = {"loss": ("Training loss", "nats per target token")}
    for held_out, values in first.held_out.items():
        if "error" in values:
            title = "Held-out samples with a wrong answer"
            figures[f"{held_out}/error"] = (title, "whole-answer error, %")
        else:
            figures[f"{held_out}/bits_per_byte"] = (f"Held-out text: {held_out}", "bits per byte")
    return viz.learning_curves({name: result.rows for name, result in results.items()}, figures)


def _kernels(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Key-query kernels by title, in the order of the layers."""
    found = {}
    for layer, block in params["layers"].items():
        for place, words in (("pre_kq", "before softmax"), ("post_kq", "after softmax")):
            if place in block["attention"]:
                kernel = np.asarray(block["attention"][place]["kernel"], np.float32)
                found[f"Layer {layer}, {words}"] = kernel
    return found


def _toy_attention(results: Mapping[str, Result]) -> Figure:
    """Attention of one held-out sample, from its question and answer to the blocks.

    Of every run it shows the layer and head that best follows the answer through its
    block, letter by letter. (A head that always looks at the first token may happen to
    look at the block.)
    """
    first = next(iter(results.values()))
    config = first.program.config
    task: BlockSearchConfig = config.data.block_search
    sample = BlockSearchSource(task, split="heldout", seed=config.seed)[0]
    letters = first.data.tokenizer.decode(sample["inputs"])
    context, rest = letters[: task.context_length], letters[task.context_length + 1 :]
    question, answer = rest[: task.num_question_letters], rest[task.num_question_letters :]
    # Of all blocks only the answer holds every letter of the question.
    blocks = context.split(".")
    target = next(i for i, block in enumerate(blocks) if set(question) <= set(block))
    start = target * (task.block_size + 1)

    # Tokens are shifted by the begin token; queries start at "#".
    keys = slice(1, 1 + task.context_length)
    queries = slice(1 + task.context_length, None)
    tokens = jnp.asarray(sample["inputs"])[None]
    maps = {}
    for name, result in results.items():
        weights = result.program.model(result.params).attention_weights(tokens)
        candidates = {
            (layer, head): np.asarray(weights[layer][0, head], np.float32)[queries, keys]
            for layer in range(len(weights))
            for head in range(weights[layer].shape[1])
        }
        answer_rows, block = slice(-len(answer), None), slice(start, start + task.block_size)
        scores = {which: _best_diagonal(x[answer_rows, block]) for which, x in candidates.items()}
        layer, head = max(scores, key=lambda which: scores[which])
        maps[f"{name}: layer {layer}, head {head}"] = candidates[layer, head]
    return viz.attention_maps(
        maps,
        keys=list(context),
        queries=["#", *question, *answer],
        marked=(start, start + task.block_size),
        marked_label="framed: the block that answers the question",
    )


def _best_diagonal(weights: np.ndarray) -> float:
    """The largest sum along a diagonal of [queries, keys]."""
    num_queries, num_keys = weights.shape
    return max(float(weights.trace(offset)) for offset in range(1 - num_queries, num_keys))
