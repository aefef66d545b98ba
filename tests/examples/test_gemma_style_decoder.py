"""A decoder in the style of Flax's Gemma example is given the kernels in one line."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mta_jax.layers import MultiTokenAttentionFn
from tests.examples.training import losses_of_training

VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_SIZE, LENGTH = 11, 16, 4, 2, 4, 8
# Of the implementations, the one that compiles fastest.
KERNELS = {"pre_kq_kernel_size": (2, 3), "post_kq_kernel_size": (2, 3), "implementation": "xla"}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, LENGTH)))


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary embedding of [B, T, heads, size], halves of the features paired."""
    half = x.shape[-1] // 2
    angles = positions[..., None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class GroupedQueryAttention(nnx.Module):
    """Projections and rotary embedding around an attention function."""

    def __init__(self, attention_fn: Callable[..., jax.Array], *, rngs: nnx.Rngs):
        def to_heads(heads: int) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(WIDTH, (heads, HEAD_SIZE), use_bias=False, rngs=rngs)

        self.q, self.k, self.v = to_heads(HEADS), to_heads(KV_HEADS), to_heads(KV_HEADS)
        self.o = nnx.LinearGeneral(
            (HEADS, HEAD_SIZE), WIDTH, axis=(-2, -1), use_bias=False, rngs=rngs
        )
        self.attention_fn = attention_fn

    def __call__(self, x: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        q, k = rotate(self.q(x), positions), rotate(self.k(x), positions)
        return self.o(self.attention_fn(q, k, self.v(x), mask=mask))


class Layer(nnx.Module):
    """Attention and a gated MLP, both behind a norm."""

    def __init__(self, attention_fn: Callable[..., jax.Array], *, rngs: nnx.Rngs):
        self.attention_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = GroupedQueryAttention(attention_fn, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.gate = nnx.Linear(WIDTH, 2 * WIDTH, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), positions, mask)
        y = self.mlp_norm(x)
        return x + self.down(nnx.gelu(self.gate(y)) * self.up(y))


class Decoder(nnx.Module):
    """Two layers between a scaled, tied embedding."""

    def __init__(self, attention_fn=nnx.dot_product_attention, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.layers = nnx.List([Layer(attention_fn, rngs=rngs) for _ in range(2)])
        self.final_norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.from_embedded(self.embed(tokens) * WIDTH**0.5)

    def from_embedded(self, x: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        mask = nnx.make_causal_mask(positions)
        for layer in self.layers:
            x = layer(x, positions, mask)
        return self.embed.attend(self.final_norm(x))


def swap(model: Decoder, **arguments) -> Decoder:
    """The model with multi-token attention, its parameters kept."""
    for layer in model.layers:
        layer.attention.attention_fn = nnx.data(
            MultiTokenAttentionFn(HEADS, **KERNELS | arguments, rngs=nnx.Rngs(1))
        )
    return model


def loss(model: Decoder) -> jax.Array:
    logits = model(TOKENS)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]).mean()


call = jax.jit(lambda model, tokens: model(tokens))


def test_identity_kernels_change_nothing():
    expected = call(Decoder(rngs=nnx.Rngs(0)), TOKENS)
    np.testing.assert_allclose(call(swap(Decoder(rngs=nnx.Rngs(0))), TOKENS), expected, atol=2e-5)


def test_training_lowers_the_loss_and_moves_the_kernels():
    norm = {"group_norm": "gate", "head_dim": HEAD_SIZE, "embed_dim": WIDTH}
    losses, model = losses_of_training(swap(Decoder(rngs=nnx.Rngs(0)), **norm), loss)
    assert losses[-1] < 0.9 * losses[0]
    for layer in model.layers:
        for place in ("pre_kq", "pre_head", "post_kq", "post_head"):
            step = getattr(layer.attention.attention_fn, place)
            assert step.distance_from_identity() > 1e-3


def test_future_tokens_get_zero_gradient_and_past_tokens_do_not():
    model = swap(Decoder(rngs=nnx.Rngs(0)), mixing_init="normal")
    embedded = model.embed(TOKENS[:1])

    def rows(x):
        return model.from_embedded(x).sum((0, 2))

    gradient = jax.jit(jax.jacobian(rows))(embedded)[:, 0]  # [T, T, width]
    reached = abs(gradient).max(-1) > 0
    np.testing.assert_array_equal(reached, np.tril(np.ones((LENGTH, LENGTH), bool)))
