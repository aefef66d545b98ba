import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import MultiTokenAttention
from tests.layers.tools import PLAIN, drawn, normal, unchecked_types, value
from tests.ops import numpy_oracle

DROPPING = PLAIN | {"dropout_rate": 0.5, "keep_rngs": False}
SMALL = {
    "num_kv_heads": 2,
    "head_dim": 4,
    "pre_kq_kernel_size": (2, 3),
    "pre_head_kernel_size": 2,
    "post_kq_kernel_size": (3, 1),
    "post_head_kernel_size": "all",
}
Q = normal(2, 5, 8, seed=1)
K = normal(2, 7, 8, seed=2)
V = normal(2, 7, 8, seed=3)


def module(**arguments) -> MultiTokenAttention:
    return drawn(lambda: MultiTokenAttention(4, 8, **arguments, rngs=nnx.Rngs(0)))


@jax.jit
def call(attention, *inputs, **where):
    return attention(*inputs, **where)


@jax.jit
def call_in_training(attention, inputs, key):
    return attention(inputs, rngs=key)


def by_formula(attention, inputs_q, inputs_k=None, inputs_v=None, **where):
    """The module as projections, rotations and norms around the op's formulas."""
    inputs_q = np.asarray(inputs_q, np.float64)
    inputs_k = inputs_q if inputs_k is None else np.asarray(inputs_k, np.float64)
    inputs_v = inputs_k if inputs_v is None else np.asarray(inputs_v, np.float64)

    def project(inputs, projection):
        heads = np.einsum("btd,dnh->btnh", inputs, value(projection.kernel))
        return heads if projection.bias is None else heads + value(projection.bias)

    q = project(inputs_q, attention.query_proj)
    k = project(inputs_k, attention.key_proj)
    if attention.query_norm is not None:
        q, k = (
            x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * value(norm.scale)
            for x, norm in ((q, attention.query_norm), (k, attention.key_norm))
        )
    positions = where.pop("positions", np.tile(np.arange(q.shape[1]), (2, 1)))
    key_positions = where.pop("key_positions", positions)
    if attention.rope_theta is not None:
        rope = {"theta": attention.rope_theta, "layout": attention.rope_layout}
        q = numpy_oracle.rope(q, positions, **rope)
        k = numpy_oracle.rope(k, key_positions, **rope)
    kernels = {
        f"{name}_kernel": value(getattr(attention, name).kernel)
        for name in ("pre_kq", "pre_head", "post_kq", "post_head")
        if getattr(attention, name) is not None
    }
    out, _ = numpy_oracle.multi_token_attention(
        q,
        k,
        project(inputs_v, attention.value_proj),
        key_padding=attention.key_padding,
        is_causal=attention.is_causal,
        **kernels,
        **where,
    )
    if attention.group_norm is not None:
        norm, gate = attention.group_norm.norm, attention.group_norm.gate
        out = out / np.sqrt(np.mean(out**2, axis=-1, keepdims=True) + 1e-5) * value(norm.scale)
        out = out / (1 + np.exp(-(out @ value(gate.kernel) + value(gate.bias))))
    return np.einsum("btnh,nhd->btd", out, value(attention.out_proj.kernel))


SEGMENTS = np.array([[1, 1, 1, 2, 2], [1, 2, 2, 2, 2]])
KEY_SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 3], [1, 2, 2, 2, 2, 0, 0]])


@pytest.mark.parametrize(
    ("arguments", "inputs", "where"),
    [
        pytest.param({}, (Q,), {}, id="self"),
        pytest.param({"rope_layout": "half_split"}, (Q,), {}, id="half_split"),
        pytest.param({"rope_theta": 100.0}, (Q,), {"positions": SEGMENTS * 3}, id="positions"),
        pytest.param({"qkv_bias": True, "qk_norm": True}, (Q,), {}, id="bias-and-norm"),
        pytest.param(
            {"pre_kq_kernel_size": (2, 4), "key_padding": "left", "rope_theta": None},
            (Q,),
            {"segment_ids": SEGMENTS},
            id="packed",
        ),
        pytest.param(
            {"is_causal": False},
            (Q, K, V),
            {"key_positions": np.tile(np.arange(7)[::-1], (2, 1))},
            id="cross",
        ),
        pytest.param(
            {"is_causal": False, "rope_theta": None},
            (Q, K),
            {
                "segment_ids": SEGMENTS,
                "key_segment_ids": KEY_SEGMENTS,
                "mask": np.random.default_rng(0).random((2, 4, 5, 7)) < 0.7,
            },
            id="cross_masked_packed",
        ),
    ],
)
def test_module_is_its_formula(arguments, inputs, where):
    attention = module(**SMALL | arguments)
    expected = by_formula(attention, *inputs, **where)
    where = {name: jnp.asarray(array) for name, array in where.items()}
    np.testing.assert_allclose(call(attention, *inputs, **where), expected, atol=2e-5)


@pytest.mark.parametrize("use_bias", [False, True])
def test_plain_module_is_flax_attention_with_the_same_weights(use_bias):
    attention = module(**PLAIN, use_bias=use_bias)
    flax_attention = nnx.eval_shape(
        lambda: nnx.MultiHeadAttention(4, 8, use_bias=use_bias, decode=False, rngs=nnx.Rngs(0))
    )
    for ours, theirs in (
        ("query_proj", "query"),
        ("key_proj", "key"),
        ("value_proj", "value"),
        ("out_proj", "out"),
    ):
        setattr(flax_attention, theirs, getattr(attention, ours))
    causal = jnp.tril(jnp.ones((1, 1, 5, 5), bool))
    expected = jax.jit(lambda attention: attention(Q, mask=causal))(flax_attention)
    np.testing.assert_allclose(call(attention, Q), expected, atol=1e-5)


def test_plain_module_is_jax_attention():
    attention = module(**PLAIN, num_kv_heads=2, head_dim=6, out_features=3)

    @jax.jit
    def expected(attention):
        out = jax.nn.dot_product_attention(
            attention.query_proj(Q), attention.key_proj(Q), attention.value_proj(Q), is_causal=True
        )
        return attention.out_proj(out)

    out = call(attention, Q)
    assert out.shape == (2, 5, 3)
    np.testing.assert_allclose(out, expected(attention), atol=1e-5)


def test_defaults_are_the_papers():
    attention = nnx.eval_shape(lambda: MultiTokenAttention(4, 8, rngs=nnx.Rngs(0)))
    assert attention.pre_kq.kernel.shape == attention.post_kq.kernel.shape == (4, 6, 11)
    assert attention.pre_head.kernel.shape == attention.post_head.kernel.shape == (1, 4, 4)
    assert attention.group_norm.gate.kernel.shape == (2, 1)
    assert attention.query_proj.bias is None


def test_eval_turns_dropout_off_and_train_turns_it_on():
    attention = module(**DROPPING)
    without = call(module(**PLAIN), Q)
    attention.eval()
    np.testing.assert_array_equal(call(attention, Q), without)
    attention.train()
    with pytest.raises(ValueError, match=r"dropout_rate 0\.5 in training: pass rngs"):
        call(attention, Q)
    first = call_in_training(attention, Q, jax.random.key(1))
    np.testing.assert_array_equal(first, call_in_training(attention, Q, jax.random.key(1)))
    assert (first != without).any()
    assert (first != call_in_training(attention, Q, jax.random.key(2))).any()


def test_argument_overrides_the_deterministic_attribute():
    attention = module(**DROPPING, deterministic=True)
    with pytest.raises(ValueError, match="pass rngs"):
        jax.eval_shape(lambda: attention(Q, deterministic=False))
    attention.train()
    assert jax.eval_shape(lambda: attention(Q, deterministic=True)).shape == Q.shape


def test_dropout_draws_from_the_dropout_stream():
    attention = module(**DROPPING, deterministic=False)
    out = jax.jit(lambda attention, key: attention(Q, rngs=nnx.Rngs(dropout=key)))
    stream = nnx.Rngs(dropout=jax.random.key(3))
    expected = call_in_training(attention, Q, stream.dropout())
    np.testing.assert_allclose(out(attention, jax.random.key(3)), expected, atol=1e-6)


def test_attention_weights_times_values_are_the_output_before_the_norm():
    attention = module(**SMALL, is_causal=False)

    @jax.jit
    def through_weights(attention):
        where = {"positions": jnp.zeros((2, 5), int), "key_positions": jnp.ones((2, 7), int)}
        weights = attention.attention_weights(Q, K, **where)
        values = jnp.repeat(attention.value_proj(V), 2, axis=2)
        out = attention.group_norm(jnp.einsum("BNTS,BSNH->BTNH", weights, values))
        return attention.out_proj(out), attention(Q, K, V, **where)

    np.testing.assert_allclose(*through_weights(attention), atol=1e-5)


def test_split_merge_and_nnx_jit_keep_the_module():
    attention = module(**SMALL)
    again = nnx.merge(*nnx.split(attention))
    assert again.rope_theta == attention.rope_theta
    np.testing.assert_array_equal(call(again, Q), call(attention, Q))
    out = nnx.jit(lambda attention: attention(Q))(attention)
    np.testing.assert_allclose(out, call(attention, Q), atol=1e-5)


def test_module_works_inside_linen():
    linen = nnx.bridge.to_linen(MultiTokenAttention, 4, 8, **SMALL)
    attention = module(**SMALL)
    parameters = nnx.to_pure_dict(nnx.state(attention))
    expected = jax.eval_shape(linen.init, jax.random.key(0), Q)["params"]
    assert jax.tree.map(jnp.shape, parameters) == jax.tree.map(jnp.shape, expected)
    out = jax.jit(lambda parameters: linen.apply({"params": parameters}, Q))(parameters)
    np.testing.assert_allclose(out, call(attention, Q), atol=1e-6)


def test_bfloat16_is_near_float32_and_keeps_its_parameters():
    exact = module(**SMALL)
    rounded = module(**SMALL, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rounded))} == {jnp.dtype("float32")}
    out, expected = call(rounded, Q), call(exact, Q)
    assert out.dtype == jnp.bfloat16
    error = jnp.abs(out - expected).max() / jnp.abs(expected).max()
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads 3: must divide num_heads 4"),
        ({"in_features": 10}, "in_features 10 with 4 heads: must be divisible, or give head_dim"),
        ({"pre_head_kernel_size": 3}, "head kernel size 3 with 4 heads: must divide the heads"),
        ({"post_kq_kernel_size": (0, 3)}, "key-query kernel size (0, 3): both must be at least 1"),
        ({"pre_kq_kernel_size": (2, 4)}, "key kernel size 4 with key_padding 'both'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    arguments = {"num_heads": 4, "in_features": 8} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(lambda: nnx.state(MultiTokenAttention(**arguments, rngs=nnx.Rngs(0))))


def test_key_positions_are_asked_for_where_lengths_differ():
    attention = module(**PLAIN | {"rope_theta": 100.0})
    with pytest.raises(ValueError, match=re.escape("key_positions has shape (2, 5): expected")):
        jax.eval_shape(lambda: attention(Q, K, positions=jnp.zeros((2, 5), int)))


def test_keys_before_the_first_query_are_counted_by_query_offset():
    attention = module(**PLAIN)
    later = jax.jit(lambda m, q, k: m(q, k, query_offset=2))(attention, Q[:, 2:], Q)
    np.testing.assert_allclose(later, call(attention, Q)[:, 2:], atol=1e-5)
    weights = jax.jit(lambda m, q, k: m.attention_weights(q, k, query_offset=2))
    assert weights(attention, Q[:, 2:], Q)[:, :, 0, 2].all()


def test_a_stream_of_keys_serves_as_rngs():
    attention = module(**DROPPING, deterministic=False)
    from_stream, from_rngs = (
        attention(Q, deterministic=False, rngs=rngs)
        for rngs in (nnx.Rngs(dropout=1).dropout, nnx.Rngs(dropout=1))
    )
    np.testing.assert_array_equal(from_stream, from_rngs)


def test_several_implementations_leave_the_structure_hashable():
    attention = module(**PLAIN, implementation=["reference", "xla"])
    assert hash(nnx.split(attention)[0]) is not None


def test_named_implementation_is_used():
    attention = module(**PLAIN, implementation="reference")
    np.testing.assert_allclose(call(attention, Q), call(module(**PLAIN), Q), atol=1e-5)
    attention.implementation = "missing"
    with unchecked_types(), pytest.raises(ValueError, match="implementation 'missing'"):
        jax.eval_shape(lambda: attention(Q))
