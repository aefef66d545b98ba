import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import DifferentialAttention, MultiTokenAttention
from tests.layers.tools import drawn, normal

LENGTH, WIDTH = 9, 16
KERNELS = {"pre_kq_kernel_size": (3, 5), "post_kq_kernel_size": (2, 3)}


def attention(**changes):
    settings = {"num_kv_heads": 2, "pre_head_kernel_size": 2} | KERNELS | changes
    return drawn(lambda: MultiTokenAttention(4, WIDTH, **settings, rngs=nnx.Rngs(0)))


def assert_close(out, expected):
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("pieces", [(1,) * LENGTH, (4, 1, 4)], ids=["one by one", "chunks"])
def test_decoding_gives_what_the_whole_gives(batch, pieces):
    module, inputs = attention(decode=True), normal(*batch, LENGTH, WIDTH)
    expected = module(inputs, decode=False)
    module.init_cache(inputs.shape)
    step = nnx.jit(lambda module, x: module(x))
    ends = np.cumsum(pieces)
    outs = [
        step(module, inputs[..., end - piece : end, :])
        for end, piece in zip(ends, pieces, strict=True)
    ]
    assert_close(jnp.concatenate(outs, axis=-2), expected)
    assert int(module.cache_index[...]) == LENGTH


def test_a_cache_begins_anew():
    module, inputs = attention(decode=True), normal(1, LENGTH, WIDTH)
    module.init_cache(inputs.shape)
    first = module(inputs)
    module.init_cache(inputs.shape)
    np.testing.assert_array_equal(module(inputs), first)


def test_the_cache_survives_split_and_merge():
    module, inputs = attention(decode=True), normal(1, LENGTH, WIDTH)
    expected = module(inputs, decode=False)
    module.init_cache(inputs.shape)
    module(inputs[:, :5])
    graphdef, cache, rest = nnx.split(module, nnx.Cache, ...)
    assert len(jax.tree.leaves(cache)) == 4
    out = nnx.merge(graphdef, cache, rest)(inputs[:, 5:])
    assert_close(out, expected[:, 5:])


def test_positions_may_be_given():
    module, inputs = attention(decode=True), normal(1, LENGTH, WIDTH)
    positions = jnp.arange(LENGTH)[None] * 3
    expected = module(inputs, positions=positions, decode=False)
    module.init_cache(inputs.shape)
    outs = [module(inputs[:, :4], positions=positions[:, :4])]
    outs.append(module(inputs[:, 4:], positions=positions[:, 4:]))
    assert_close(jnp.concatenate(outs, axis=1), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda module, x: module(x), "call init_cache first"),
        (lambda module, x: (module.init_cache((1, 4, 16)), module(x)), "has 0 of 4"),
        (lambda module, x: (module.init_cache((3, 9, 16)), module(x)), "the cache is of 3 rows"),
        (lambda module, x: module(x, x), "inputs_k with decode"),
        (lambda module, x: module(x, query_offset=3), "query_offset with decode"),
        (lambda module, x: module(x, is_causal=False), "is_causal with decode"),
        (lambda module, x: module(x, sow_weights=True), "sow_weights with decode"),
        (lambda module, x: module(x, mask=jnp.ones((1, 1, 9, 9), bool)), "mask with decode"),
    ],
)
def test_what_cannot_be_decoded_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(attention(decode=True), normal(1, LENGTH, WIDTH))


def test_a_full_cache_gives_nan_under_jit():
    module, inputs = attention(decode=True), normal(1, LENGTH, WIDTH)
    module.init_cache((1, 5, WIDTH))
    out = nnx.jit(lambda module, x: module(x))(module, inputs)
    assert bool(jnp.isnan(out).all())


@pytest.mark.parametrize("kind", ["mta", "diff"])
def test_a_cache_without_room_gives_nan_for_those_sequences_only(kind):
    module, inputs = MODULES[kind](), normal(2, 6, WIDTH)
    out, _ = module.extend(
        inputs,
        module.empty_cache(2, 4),
        starts=jnp.zeros(2, jnp.int32),
        counts=jnp.array([6, 4]),
        positions=jnp.broadcast_to(jnp.arange(6), (2, 6)),
    )
    assert bool(jnp.isnan(out[0]).all())
    assert_close(out[1, :4], module(inputs)[1, :4])


def test_attention_to_later_tokens_cannot_be_decoded():
    module = attention(decode=True, is_causal=False)
    module.init_cache((1, LENGTH, WIDTH))
    with pytest.raises(ValueError, match="is_causal False"):
        module(normal(1, LENGTH, WIDTH))


MODULES = {
    "mta": attention,
    "transformer": lambda: attention(
        pre_kq_kernel_size=None,
        post_kq_kernel_size=None,
        pre_head_kernel_size=None,
        post_head_kernel_size=None,
        group_norm=None,
    ),
    "left": lambda: attention(key_padding="left", pre_kq_kernel_size=(2, 4)),
    "diff": lambda: drawn(
        lambda: DifferentialAttention(4, WIDTH, num_kv_heads=2, rngs=nnx.Rngs(0))
    ),
}


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_sequences_of_a_batch_may_have_any_lengths(build):
    module, inputs = build(), normal(2, LENGTH, WIDTH)
    expected = module(inputs)
    cache = module.empty_cache(2, LENGTH)
    starts = np.zeros(2, int)
    found = np.zeros(expected.shape)
    for counts in ([3, 1], [0, 4], [1, 1], [3, 0], [2, 3]):
        length = max(counts)
        piece = np.zeros((2, length, WIDTH), np.float32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            piece[row, :count] = inputs[row, start : start + count]
        out, cache = module.extend(
            jnp.asarray(piece),
            cache,
            starts=jnp.asarray(starts),
            counts=jnp.asarray(counts),
            positions=jnp.asarray(starts[:, None] + np.arange(length)),
        )
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            found[row, start : start + count] = out[row, :count]
        starts += counts
    assert starts.tolist() == [LENGTH, LENGTH]
    assert_close(found, expected)
