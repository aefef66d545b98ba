"""Sampling from a language model by running it over the whole sequence each time.

The simple way: every new token costs a full forward pass over a buffer of fixed
length. It needs no cache and suits short samples during training.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from mta_jax.typing import Array, DropoutKey, Int


def generate(
    graphdef: nnx.GraphDef,
    params: Any,
    prompt: Int[np.ndarray, "P"],
    *,
    num_tokens: int,
    temperature: float,
    eos_id: int,
    key: DropoutKey,
) -> np.ndarray:
    """Continues a prompt, until the document ends or `num_tokens` are written.

    Args:
      graphdef: structure of the model.
      params: its parameters.
      prompt: token ids; at least one.
      num_tokens: most tokens to write.
      temperature: divides the logits; 0 takes the likeliest token.
      eos_id: token that ends the text; not part of the result.
      key: random key.

    Returns:
      The new token ids.

    Raises:
      ValueError: for an empty prompt or a negative temperature.
    """
    if len(prompt) == 0:
        raise ValueError("prompt is empty: it needs at least one token, such as the begin token")
    if temperature < 0:
        raise ValueError(f"temperature {temperature}: must be at least 0")
    buffer = np.zeros((1, len(prompt) + num_tokens), np.int32)
    buffer[0, : len(prompt)] = prompt
    filled = _fill(graphdef, params, buffer, len(prompt), temperature, key)
    written = np.asarray(filled)[0, len(prompt) :]
    ends = np.flatnonzero(written == eos_id)
    return written[: ends[0]] if ends.size else written


@functools.partial(jax.jit, static_argnums=0)
def _fill(
    graphdef: nnx.GraphDef,
    params: Any,
    buffer: Array,
    start: int | Array,
    temperature: float | Array,
    key: DropoutKey,
) -> Array:
    """Fills the buffer [1, T] from `start` on, one token after the other."""
    model = nnx.merge(graphdef, params)

    def write_one(index: Array, buffer: Array) -> Array:
        # Causality makes the rest of the buffer, not yet written, irrelevant.
        logits = model(buffer)[0, index - 1]
        likeliest = jnp.argmax(logits)
        drawn = jax.random.categorical(
            jax.random.fold_in(key, index), logits / jnp.maximum(temperature, 1e-6)
        )
        return buffer.at[0, index].set(jnp.where(temperature > 0, drawn, likeliest))

    return lax.fori_loop(start, buffer.shape[1], write_one, jnp.asarray(buffer))
