"""An encoder over the patches of pictures, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mta_jax.layers import MultiTokenAttention
from tests.examples.training import losses_of_training
from tests.layers.tools import normal

WIDTH, HEADS, PATCH, SIDE, CLASSES = 16, 4, 2, 6, 3
NUM_PATCHES = (SIDE // PATCH) ** 2
IMAGES = normal(4, SIDE, SIDE, 3)
LABELS = jnp.array([0, 1, 2, 1])


def mta(*, rngs: nnx.Rngs, **arguments) -> MultiTokenAttention:
    return MultiTokenAttention(
        num_heads=HEADS,
        in_features=WIDTH,
        is_causal=False,
        rope_theta=None,
        use_bias=True,
        pre_kq_kernel_size=(3, 3),
        post_kq_kernel_size=(3, 3),
        implementation="xla",
        **{"group_norm": None} | arguments,
        rngs=rngs,
    )


def flax_attention(*, rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
    return nnx.MultiHeadAttention(num_heads=HEADS, in_features=WIDTH, decode=False, rngs=rngs)


class Encoder(nnx.Module):
    """Patches, positions, one layer of the given attention, mean over patches."""

    def __init__(self, attention=flax_attention, *, rngs: nnx.Rngs, **arguments):
        self.patches = nnx.Conv(3, WIDTH, (PATCH, PATCH), strides=(PATCH, PATCH), rngs=rngs)
        self.positions = nnx.Param(0.02 * rngs.normal((NUM_PATCHES, WIDTH)))
        self.attention_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = attention(rngs=rngs, **arguments)
        self.mlp_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patches(images).reshape(images.shape[0], NUM_PATCHES, WIDTH)
        return self.head(self.encode(x + self.positions[...]).mean(axis=1))

    def encode(self, x: jax.Array, **where) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), **where)
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


def loss(model: Encoder) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(IMAGES), LABELS).mean()


def test_identity_kernels_change_nothing():
    plain, mixed = Encoder(rngs=nnx.Rngs(0)), Encoder(mta, rngs=nnx.Rngs(0))
    kept = plain.attention
    for name in ("patches", "positions", "up", "down", "head"):
        setattr(mixed, name, getattr(plain, name))
    for ours, theirs in (("query", "query_proj"), ("key", "key_proj"), ("value", "value_proj")):
        setattr(mixed.attention, theirs, getattr(kept, ours))
    mixed.attention.out_proj = kept.out
    call = jax.jit(lambda model: model(IMAGES))
    np.testing.assert_allclose(call(mixed), call(plain), atol=2e-5)


def test_training_lowers_the_loss():
    losses, _ = losses_of_training(Encoder(mta, group_norm="gate", rngs=nnx.Rngs(0)), loss)
    assert losses[-1] < 0.9 * losses[0]


def test_every_patch_reaches_every_patch():
    model = Encoder(mta, mixing_init="normal", rngs=nnx.Rngs(0))

    def rows(x):
        return model.encode(x).sum((0, 2))

    gradient = jax.jit(jax.jacobian(rows))(normal(1, NUM_PATCHES, WIDTH))[:, 0]
    assert (abs(gradient).max(-1) > 0).all()


def test_pictures_packed_into_one_row_stay_apart():
    model = Encoder(mta, mixing_init="normal", rngs=nnx.Rngs(0))
    segment_ids = jnp.array([[1] * 4 + [2] * 5])

    def rows(x):
        return model.encode(x, segment_ids=segment_ids).sum((0, 2))

    gradient = jax.jit(jax.jacobian(rows))(normal(1, NUM_PATCHES, WIDTH))[:, 0]
    same = segment_ids[0][:, None] == segment_ids[0][None, :]
    np.testing.assert_array_equal(abs(gradient).max(-1) > 0, same)
