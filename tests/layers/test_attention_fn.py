"""`MultiTokenAttentionFn` in Flax's own attention class."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import MultiTokenAttentionFn
from mta_jax.ops.multi_token_attention import multi_token_attention
from tests.layers.tools import drawn, normal, unchecked_types

# Of the implementations, the one that compiles fastest.
SMALL = {"pre_kq_kernel_size": (2, 3), "post_kq_kernel_size": (3, 3), "implementation": "xla"}
X = normal(2, 5, 8, seed=1)
CAUSAL = nnx.make_causal_mask(jnp.ones((2, 5)))


def flax_attention(attention_fn=nnx.dot_product_attention, **arguments) -> nnx.MultiHeadAttention:
    """Flax's module, of the same parameters for every attention function."""
    return nnx.MultiHeadAttention(
        4, 8, attention_fn=attention_fn, **{"decode": False} | arguments, rngs=nnx.Rngs(0)
    )


def function(**arguments) -> MultiTokenAttentionFn:
    return drawn(lambda: MultiTokenAttentionFn(4, **SMALL | arguments, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("arguments", [{}, {"num_kv_heads": 2, "normalize_qk": True}])
def test_identity_kernels_leave_flax_attention_as_it_is(arguments):
    start = MultiTokenAttentionFn(4, **SMALL, rngs=nnx.Rngs(1))
    mixed, plain = flax_attention(start, **arguments), flax_attention(**arguments)

    @jax.jit
    def all_ways(mixed, plain):
        masked = CAUSAL.at[0, :, :, 1].set(0.0)
        return (
            (mixed(X, mask=masked), plain(X, mask=masked)),
            (mixed(X, is_causal=True), plain(X, is_causal=True)),
            (mixed(X, X[:, :4]), plain(X, X[:, :4])),
            (mixed(X[0]), plain(X[0])),
            (mixed(X[None]), plain(X[None])),
        )

    for out, expected in all_ways(mixed, plain):
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_flax_attention_applies_the_kernels():
    mixed = flax_attention(function())
    fn = mixed.attention_fn

    @jax.jit
    def by_hand(module):
        out = multi_token_attention(
            module.query(X),
            module.key(X),
            module.value(X),
            pre_kq_kernel=fn.pre_kq.kernel[...],
            pre_head_kernel=fn.pre_head.kernel[...],
            post_kq_kernel=fn.post_kq.kernel[...],
            post_head_kernel=fn.post_head.kernel[...],
        )
        return module.out(out)

    expected = by_hand(mixed)
    np.testing.assert_allclose(nnx.jit(lambda m: m(X, mask=CAUSAL))(mixed), expected, atol=1e-5)
    again = nnx.merge(*nnx.split(mixed))
    np.testing.assert_allclose(nnx.jit(lambda m: m(X, mask=CAUSAL))(again), expected, atol=1e-5)


def test_kernels_are_parameters_of_the_module_and_get_gradients():
    mixed = flax_attention(function())

    def loss(module):
        return (module(X, mask=CAUSAL) ** 2).sum()

    gradients = nnx.jit(nnx.grad(loss))(mixed)
    # In Flax's tree mode they come as a module.
    state = nnx.state(gradients) if isinstance(gradients, nnx.Module) else gradients
    gradients = nnx.to_pure_dict(state)["attention_fn"]
    assert set(gradients) == {"pre_kq", "pre_head", "post_kq", "post_head"}
    assert all((abs(g["kernel"]).max() > 1e-3) for g in gradients.values())


def test_future_keys_get_zero_gradient():
    mixed = flax_attention(function())
    gradient = jax.jit(jax.jacobian(lambda x: mixed(x, mask=CAUSAL[:1]).sum((0, 2))))(X[:1])
    reached = abs(gradient[:, 0]).max(-1) > 0
    np.testing.assert_array_equal(reached, np.tril(np.ones((5, 5), bool)))


def test_other_documents_get_zero_gradient_with_segment_ids():
    fn = function()
    segment_ids = jnp.array([[1, 1, 2, 2, 2]])
    q, k, v = (normal(1, 5, 4, 2, seed=seed) for seed in range(3))

    def of_second(q, k, v):
        return fn(q, k, v, is_causal=True, segment_ids=segment_ids)[:, 2:].sum()

    for gradient in jax.jit(jax.grad(of_second, argnums=(0, 1, 2)))(q, k, v):
        assert (gradient[:, :2] == 0).all()
        assert (gradient[:, 2:] != 0).any()


def test_dropout_is_that_of_the_op():
    mixed = flax_attention(
        function(), dropout_rate=0.5, broadcast_dropout=False, deterministic=False
    )
    call = jax.jit(lambda module, key: module(X, mask=CAUSAL, rngs=nnx.Rngs(dropout=key)))
    first, second = call(mixed, jax.random.key(1)), call(mixed, jax.random.key(2))
    np.testing.assert_array_equal(first, call(mixed, jax.random.key(1)))
    assert (first != second).any()
    plain = jax.jit(lambda module: module(X, mask=CAUSAL, deterministic=True))(mixed)
    undropped = flax_attention(mixed.attention_fn)
    np.testing.assert_allclose(plain, undropped(X, mask=CAUSAL), atol=1e-5)


def test_weights_are_sown_into_the_module_of_flax():
    mixed = flax_attention(function())

    def call(module):
        return module(X, mask=CAUSAL, sow_weights=True)

    _, intermediates = nnx.capture(call, nnx.Intermediate)(mixed)
    (weights,) = intermediates["attention_weights"]
    heads = jnp.einsum("BNTS,BSNH->BTNH", weights, mixed.value(X))
    np.testing.assert_allclose(mixed.out(heads), mixed(X, mask=CAUSAL), atol=1e-5)


def test_group_norm_keeps_the_dtype_of_the_computation():
    fn = function(group_norm="gate", head_dim=2, embed_dim=8)
    exact = flax_attention(fn)
    rounded = flax_attention(fn, dtype=jnp.bfloat16)
    call = jax.jit(lambda module: module(X, mask=CAUSAL))
    out, expected = call(rounded), call(exact)
    assert out.dtype == jnp.bfloat16
    error = jnp.abs(out - expected).max() / jnp.abs(expected).max()
    assert 1e-4 < error < 0.05
    assert (call(flax_attention(function())) != expected).any()


def test_kernels_of_one_query_decode_with_the_cache_of_flax():
    fn = function(pre_kq_kernel_size=(1, 3), post_kq_kernel_size=(1, 3))
    module = flax_attention(fn, decode=True)
    expected = module(X, mask=CAUSAL, decode=False)
    module.init_cache(X.shape)
    step = nnx.jit(lambda module, x: module(x))
    outs = [step(module, X[:, t : t + 1]) for t in range(5)]
    np.testing.assert_allclose(jnp.concatenate(outs, axis=1), expected, atol=1e-5)


def test_one_query_of_several_is_refused():
    module = flax_attention(function(), decode=True)
    module.init_cache(X.shape)
    message = "1 query over 5 keys with a kernel of 3 queries: a decoding cache of Flax's kind"
    with pytest.raises(ValueError, match=message):
        module(X[:, :1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bias": jnp.zeros((1, 4, 5, 5))}, "bias: must be None"),
        ({"qk_attn_weights_einsum": jnp.einsum}, "qk_attn_weights_einsum: must be None"),
        (
            {"dropout_rate": 0.5, "dropout_rng": jax.random.key(0)},
            "broadcast_dropout True: must be False",
        ),
        ({"dropout_rate": 0.5}, "dropout_rate 0.5 in training: pass rngs"),
        ({"mask": jnp.ones((2, 1, 5, 5))}, "mask has shape (2, 1, 5, 5): expected batch axes (1,)"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(arguments, message):
    q = jnp.ones((1, 5, 4, 2))
    with unchecked_types(), pytest.raises(ValueError, match=re.escape(message)):
        function()(q, q, q, **arguments)


def test_group_norm_without_its_sizes_is_refused():
    with pytest.raises(ValueError, match="group_norm 'gate' without head_dim"):
        MultiTokenAttentionFn(4, group_norm="gate", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="'gate' without embed_dim"):
        MultiTokenAttentionFn(4, group_norm="gate", head_dim=2, rngs=nnx.Rngs(0))


def test_arguments_are_those_of_flax_in_their_order():
    theirs = list(inspect.signature(nnx.dot_product_attention).parameters)
    ours = list(inspect.signature(inspect.unwrap(MultiTokenAttentionFn.__call__)).parameters)
    assert ours[1 : 1 + len(theirs)] == theirs
