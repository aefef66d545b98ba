"""`MultiTokenAttention` takes the place of `flax.nnx.MultiHeadAttention`."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.layers import MultiTokenAttention
from tests.layers.tools import PLAIN, drawn, normal, unchecked_types

# Of the implementations, the one that compiles fastest.
FAST = {"implementation": "xla"}
PLAINLY = PLAIN | FAST
SMALL = {"pre_kq_kernel_size": (2, 3), "post_kq_kernel_size": (2, 3)} | FAST
NAMES = {"query": "query_proj", "key": "key_proj", "value": "value_proj", "out": "out_proj"}
NORMS = {"query_ln": "query_norm", "key_ln": "key_norm"}
REFUSED = {"qkv_dot_general", "out_dot_general", "qkv_dot_general_cls", "out_dot_general_cls"}


def flax_twin(attention, *positional, names=NAMES, **arguments) -> nnx.MultiHeadAttention:
    """Flax's module with the parameters of ours."""
    twin = nnx.eval_shape(
        lambda: nnx.MultiHeadAttention(*positional, **arguments, decode=False, rngs=nnx.Rngs(0))
    )
    for theirs, ours in names.items():
        setattr(twin, theirs, getattr(attention, ours))
    return twin


def parameters(function) -> dict:
    return inspect.signature(inspect.unwrap(function)).parameters


def test_constructor_has_the_arguments_of_flax_in_their_order():
    ours = parameters(MultiTokenAttention.__init__)
    theirs = parameters(nnx.MultiHeadAttention.__init__)
    missing = set(theirs) - set(ours)
    assert missing <= REFUSED
    shared = [name for name in theirs if name in ours]
    assert [name for name in ours if name in theirs] == shared
    for name in shared:
        assert ours[name].kind == theirs[name].kind, name


@pytest.mark.parametrize(
    ("positional", "arguments"),
    [
        pytest.param((4, 8), {}, id="default"),
        pytest.param((4, 8, 12, 6), {"use_bias": True}, id="widths"),
        pytest.param((4, 8, 16, 6, 2, 5), {"use_bias": True}, id="grouped_cross"),
        pytest.param((4, 8, 16), {"normalize_qk": True, "num_kv_heads": 2}, id="normalize_qk"),
    ],
)
def test_the_same_arguments_build_what_flax_builds(positional, arguments):
    arguments = {"use_bias": False} | arguments
    ours = drawn(lambda: MultiTokenAttention(*positional, **arguments, **PLAINLY, rngs=nnx.Rngs(0)))
    names = NAMES | (NORMS if arguments.get("normalize_qk") else {})
    theirs = flax_twin(ours, *positional, names=names, **arguments)
    q = normal(2, 5, 8, seed=1)
    k = normal(2, 5, positional[5] if len(positional) > 5 else 8, seed=2)
    mask = nnx.make_causal_mask(jnp.ones((2, 5)))  # of floats
    expected = jax.jit(lambda m: m(q, k, mask=mask))(theirs)
    assert expected.shape[-1] == (positional[3] if len(positional) > 3 else 8)
    masked = jax.jit(lambda m: m(q, k, mask=mask, is_causal=False))(ours)
    np.testing.assert_allclose(masked, expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda m: m(q, k))(ours), expected, atol=1e-5)


def test_initialisers_and_metadata_reach_the_parameters_that_flax_gives_them():
    ones, zeros, normal_init = (
        nnx.initializers.ones,
        nnx.initializers.zeros,
        nnx.initializers.normal(1.0),
    )
    options = {
        "use_bias": True,
        "kernel_init": ones,
        "out_kernel_init": normal_init,
        "bias_init": normal_init,
        "out_bias_init": ones,
        "normalize_qk": True,
        "kernel_metadata": {"of": "kernel"},
        "out_kernel_metadata": {"of": "out_kernel"},
        "bias_metadata": {"of": "bias"},
        "out_bias_metadata": {"of": "out_bias"},
        "query_ln_scale_metadata": {"of": "query_scale"},
        "key_ln_scale_metadata": {"of": "key_scale"},
    }
    ours = MultiTokenAttention(2, 4, **options, **PLAINLY, rngs=nnx.Rngs(0))
    for projection in (ours.query_proj, ours.key_proj, ours.value_proj):
        assert (projection.kernel[...] == 1).all()
        assert (projection.bias[...] != 0).all()
        assert (projection.kernel.of, projection.bias.of) == ("kernel", "bias")
    assert not (ours.out_proj.kernel[...] == 1).any()
    assert (ours.out_proj.bias[...] == 1).all()
    assert (ours.out_proj.kernel.of, ours.out_proj.bias.of) == ("out_kernel", "out_bias")
    assert (ours.query_norm.scale.of, ours.key_norm.scale.of) == ("query_scale", "key_scale")
    del options["out_kernel_init"], options["out_bias_init"]
    again = MultiTokenAttention(2, 4, **options | {"bias_init": zeros}, **PLAINLY, rngs=nnx.Rngs(0))
    assert (again.out_proj.kernel[...] == 1).all()
    assert (again.out_proj.bias[...] == 0).all()


def test_dtypes_are_promoted_by_the_functions_given():
    def to_half(arrays, *, dtype=None, **_):
        return tuple(None if array is None else array.astype(jnp.float16) for array in arrays)

    attention = MultiTokenAttention(
        2, 4, **PLAINLY, out_promote_dtype=to_half, precision="highest", rngs=nnx.Rngs(0)
    )
    assert attention(jnp.ones((1, 3, 4))).dtype == jnp.float16


@pytest.mark.parametrize("batch", [(), (2, 3), (1,)])
def test_any_number_of_batch_axes(batch):
    attention = drawn(lambda: MultiTokenAttention(4, 8, **SMALL, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*batch, 5, 8)), jnp.float32)
    mask = jnp.asarray(rng.random((*batch, 1, 5, 5)) < 0.8)
    positions = jnp.asarray(rng.integers(0, 9, (*batch, 5)))
    segment_ids = jnp.asarray(np.sort(rng.integers(1, 3, (*batch, 5))))

    @jax.jit
    def both(attention):
        where = {"mask": mask, "positions": positions, "segment_ids": segment_ids}
        flat = {name: w.reshape(-1, *w.shape[len(batch) :]) for name, w in where.items()}
        return attention(x, **where), attention(x.reshape(-1, 5, 8), **flat)

    out, expected = both(attention)
    assert out.shape == x.shape
    np.testing.assert_allclose(out.reshape(-1, 5, 8), expected, atol=1e-6)


def test_masks_and_ids_may_be_shared_by_the_batch():
    attention = drawn(lambda: MultiTokenAttention(4, 8, **SMALL, rngs=nnx.Rngs(0)))
    x = normal(2, 3, 5, 8)
    shared = {
        "mask": jnp.asarray(np.random.default_rng(0).random((1, 3, 4, 5, 5)) < 0.8),
        "segment_ids": jnp.array([1, 1, 2, 2, 2]),
    }
    full = {
        "mask": jnp.broadcast_to(shared["mask"], (2, 3, 4, 5, 5)),
        "segment_ids": jnp.broadcast_to(shared["segment_ids"], (2, 3, 5)),
    }
    call = jax.jit(lambda attention, where: attention(x, **where))
    np.testing.assert_array_equal(call(attention, shared), call(attention, full))


@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 5), (3, 1, 5, 5), (1, 1, 1, 5, 5)])
def test_masks_of_other_batches_are_refused(shape):
    attention = drawn(lambda: MultiTokenAttention(4, 8, **PLAINLY, rngs=nnx.Rngs(0)))
    message = re.escape(f"mask has shape {shape}: expected batch axes (2,)")
    with unchecked_types(), pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: attention(normal(2, 5, 8), mask=jnp.ones(shape, bool)))


def test_kept_rngs_drive_dropout_and_move_on():
    attention = MultiTokenAttention(
        2, 4, **PLAINLY, dropout_rate=0.5, deterministic=False, rngs=nnx.Rngs(0, dropout=1)
    )
    call = nnx.jit(lambda attention: attention(normal(2, 3, 4)))
    first, second = call(attention), call(attention)
    assert (first != second).any()
    again = MultiTokenAttention(
        2, 4, **PLAINLY, dropout_rate=0.5, deterministic=False, rngs=nnx.Rngs(0, dropout=1)
    )
    np.testing.assert_array_equal(call(again), first)
    alone = MultiTokenAttention(
        2, 4, **PLAINLY, dropout_rate=0.5, keep_rngs=False, rngs=nnx.Rngs(0, dropout=1)
    )
    assert alone.rngs is None
    out = alone(normal(2, 3, 4), deterministic=False, rngs=jax.random.key(3))
    assert (out != first).any()


def test_dropout_that_nobody_decided_on_is_refused():
    attention = MultiTokenAttention(2, 4, **PLAINLY, dropout_rate=0.5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="with deterministic None: say True or False"):
        attention(normal(2, 3, 4))
    assert attention(normal(2, 3, 4), deterministic=True).shape == (2, 3, 4)


def test_causality_of_a_call_overrides_the_attribute():
    attention = drawn(lambda: MultiTokenAttention(4, 8, **SMALL, rngs=nnx.Rngs(0)))
    encoder = drawn(lambda: MultiTokenAttention(4, 8, **SMALL, is_causal=False, rngs=nnx.Rngs(0)))
    x = normal(2, 5, 8)
    call = jax.jit(lambda attention: attention(x))
    once = jax.jit(lambda attention: attention(x, is_causal=not attention.is_causal))
    np.testing.assert_allclose(once(attention), call(encoder), atol=1e-6)
    np.testing.assert_allclose(once(encoder), call(attention), atol=1e-6)
    assert (call(attention) != call(encoder)).any()


def test_sown_weights_are_the_attention_weights():
    attention = drawn(lambda: MultiTokenAttention(4, 8, **SMALL, rngs=nnx.Rngs(0)))
    x = normal(2, 3, 5, 8)
    call = nnx.capture(lambda attention: attention(x, sow_weights=True), nnx.Intermediate)
    _, intermediates = call(attention)
    (weights,) = intermediates["attention_weights"]
    assert weights.shape == (2, 3, 4, 5, 5)
    expected = attention.attention_weights(x.reshape(6, 5, 8)).reshape(weights.shape)
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qkv_features": 10}, "qkv_features 10 with 4 heads: must be divisible"),
        (
            {"qkv_features": 16, "head_dim": 2},
            "head_dim 2 with qkv_features 16 and 4 heads: give one of them, or head_dim 4",
        ),
        ({"broadcast_dropout": True}, "broadcast_dropout True: must be False"),
        ({"attention_fn": nnx.dot_product_attention}, "must be None, for this class is"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(lambda: nnx.state(MultiTokenAttention(4, 8, **arguments, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_deprecated_arguments_are_refused_by_name(name):
    with pytest.raises(TypeError, match=name):
        MultiTokenAttention(4, 8, **{name: None}, rngs=nnx.Rngs(0))


def test_inputs_that_do_not_fit_are_refused():
    attention = drawn(
        lambda: MultiTokenAttention(4, 8, in_kv_features=6, **PLAINLY, rngs=nnx.Rngs(0))
    )
    q, kv = normal(2, 5, 8), normal(2, 7, 6)
    with unchecked_types(), pytest.raises(ValueError, match="inputs_v without inputs_k"):
        attention(q, inputs_v=kv)
    message = re.escape("inputs_k has shape (2, 5, 8): expected 6 features")
    with unchecked_types(), pytest.raises(ValueError, match=message):
        attention(q, q)
