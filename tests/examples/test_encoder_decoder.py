"""A decoder that attends to its own past and to an encoder's output of another length."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mta_jax.layers import MultiTokenAttention
from tests.examples.training import losses_of_training
from tests.layers.tools import normal

VOCAB, WIDTH, SOURCE_WIDTH, HEADS, TARGETS, SOURCES = 7, 16, 12, 4, 5, 8
# Of the implementations, the one that compiles fastest.
KERNELS = {"pre_kq_kernel_size": (2, 3), "post_kq_kernel_size": (2, 3), "implementation": "xla"}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, TARGETS + 1)))
SOURCE = normal(2, SOURCES, SOURCE_WIDTH)
IS_SOURCE = jnp.array([[True] * 8, [True] * 5 + [False] * 3])


class Decoder(nnx.Module):
    """One layer of self-attention and cross-attention."""

    def __init__(self, *, rngs: nnx.Rngs, **arguments):
        self.embed = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.self_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.self_attention = MultiTokenAttention(HEADS, WIDTH, **KERNELS, **arguments, rngs=rngs)
        self.cross_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.cross_attention = MultiTokenAttention(
            HEADS,
            WIDTH,
            in_kv_features=SOURCE_WIDTH,
            is_causal=False,
            rope_theta=None,
            **KERNELS,
            **arguments,
            rngs=rngs,
        )

    def __call__(self, tokens: jax.Array, source: jax.Array, is_source: jax.Array) -> jax.Array:
        return self.embed.attend(self.decode(self.embed(tokens), source, is_source))

    def decode(self, x: jax.Array, source: jax.Array, is_source: jax.Array) -> jax.Array:
        x = x + self.self_attention(self.self_norm(x))
        mask = is_source[:, None, None, :]
        return x + self.cross_attention(self.cross_norm(x), source, mask=mask)


def loss(model: Decoder) -> jax.Array:
    logits = model(TOKENS[:, :-1], SOURCE, IS_SOURCE)
    return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]).mean()


def test_training_lowers_the_loss():
    losses, _ = losses_of_training(Decoder(rngs=nnx.Rngs(0)), loss)
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_reach_past_targets_and_true_sources_only():
    model = Decoder(mixing_init="normal", rngs=nnx.Rngs(0))

    def rows(x, source):
        return model.decode(x, source, IS_SOURCE).sum(2)  # [B, T]

    by_target, by_source = jax.jit(jax.jacobian(rows, argnums=(0, 1)))(
        normal(2, TARGETS, WIDTH, seed=1), SOURCE
    )
    for b in range(2):
        past = np.tril(np.ones((TARGETS, TARGETS), bool))
        np.testing.assert_array_equal(abs(by_target[b, :, b]).max(-1) > 0, past)
        true = np.broadcast_to(IS_SOURCE[b], (TARGETS, SOURCES))
        np.testing.assert_array_equal(abs(by_source[b, :, b]).max(-1) > 0, true)
        assert (by_target[b, :, 1 - b] == 0).all()
        assert (by_source[b, :, 1 - b] == 0).all()
