"""What the tests of checkpoints share."""

import jax
import numpy as np
from flax import nnx

from mta_jax.interop.checkpoint import Checkpoint
from mta_jax.interop.names import unflat
from mta_jax.models import Transformer


@jax.jit
def _forward(model, tokens):
    return model(tokens)


def our_logits(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] of a model that was read."""
    model = nnx.eval_shape(lambda: Transformer(checkpoint.model, rngs=nnx.Rngs(0)))
    graphdef, _ = nnx.split(model)
    params = jax.tree.map(jax.numpy.asarray, unflat(checkpoint.arrays, checkpoint.model))
    return np.asarray(_forward(nnx.merge(graphdef, params), tokens))


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for float32 rounding, which is in proportion to the largest logit."""
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
