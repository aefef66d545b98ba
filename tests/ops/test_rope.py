import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.rope import RopeScaling, apply_rope
from tests.ops import numpy_oracle

LAYOUTS = ("interleaved", "half_split")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def turn(x, positions, **options):
    with jax.enable_x64(True):
        rope = jax.jit(apply_rope, static_argnames=("theta", "layout", "scaling"))
        return np.asarray(rope(x, positions, **options))


@pytest.mark.parametrize("theta", [10_000.0, 500.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_loops(layout, theta):
    x, positions = normal(2, 4, 3, 6), np.array([[0, 1, 2, 3], [7, 0, 1000, 1]])
    expected = numpy_oracle.rope(x, positions, theta=theta, layout=layout)
    out = turn(x, positions, theta=theta, layout=layout)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_default_layout_is_interleaved_with_theta_10000():
    x, positions = normal(1, 3, 2, 4), np.array([[1, 2, 3]])
    explicit = turn(x, positions, theta=10_000.0, layout="interleaved")
    np.testing.assert_array_equal(turn(x, positions), explicit)


def test_first_pair_turns_by_one_radian_per_position():
    x = np.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    out = turn(x, np.array([[1]])).ravel()
    np.testing.assert_allclose(out, [np.cos(1), np.sin(1)], rtol=0, atol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inner_products_depend_on_relative_positions_only(layout):
    query, key = normal(1, 5, 2, 8), normal(1, 5, 2, 8, seed=1)
    positions = np.array([[0, 1, 2, 5, 9]])

    def products(shift):
        turned = (turn(x, positions + shift, layout=layout) for x in (query, key))
        return np.einsum("BTNH,BSNH->BNTS", *turned)

    np.testing.assert_allclose(products(100), products(0), rtol=0, atol=1e-12)
    assert not np.allclose(products(0), np.einsum("BTNH,BSNH->BNTS", query, key))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lengths_stay_and_position_zero_does_not_turn(layout):
    x, positions = normal(1, 3, 2, 8), np.array([[0, 3, 50]])
    out = turn(x, positions, layout=layout)
    np.testing.assert_array_equal(out[:, 0], x[:, 0])
    norms = np.linalg.norm(out, axis=-1), np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(*norms, rtol=1e-12)


def test_half_split_is_interleaved_of_permuted_features():
    x, positions = normal(2, 4, 3, 8), np.array([[0, 1, 2, 3], [5, 4, 9, 1]])
    pairs_to_halves = np.concatenate([np.arange(0, 8, 2), np.arange(1, 8, 2)])
    half_split = turn(x[..., pairs_to_halves], positions, layout="half_split")
    interleaved = turn(x, positions, layout="interleaved")
    np.testing.assert_array_equal(half_split, interleaved[..., pairs_to_halves])


def test_bfloat16_is_turned_in_float32_and_rounded_once():
    x, positions = jnp.asarray(normal(1, 4, 2, 8), jnp.bfloat16), jnp.array([[3, 70, 500, 4000]])
    out = apply_rope(x, positions)
    assert out.dtype == jnp.bfloat16
    once = apply_rope(x.astype(jnp.float32), positions).astype(jnp.bfloat16)
    np.testing.assert_array_equal(out, once)


def test_odd_head_size_is_refused():
    with pytest.raises(ValueError, match="head size 5: rotary embedding needs an even"):
        apply_rope(jnp.zeros((1, 2, 1, 5)), jnp.zeros((1, 2), int))


def test_unknown_layout_is_refused(unchecked_shapes):
    with pytest.raises(ValueError, match="rope layout 'pairs': must be"):
        apply_rope(jnp.zeros((1, 2, 1, 4)), jnp.zeros((1, 2), int), layout="pairs")


def angles_at(position, head_size, **options):
    """The angle that each pair turns by, from a turn of (1, 0)."""
    x = np.zeros((1, 1, 1, head_size))
    x[..., ::2] = 1.0
    pairs = turn(x, np.array([[position]]), **options).reshape(-1, 2)
    return np.arctan2(pairs[:, 1], pairs[:, 0])


def test_linear_scaling_is_that_of_positions_divided_by_the_factor():
    scaled = angles_at(12, 8, scaling=RopeScaling(kind="linear", factor=4.0))
    np.testing.assert_allclose(scaled, angles_at(3, 8), rtol=0, atol=1e-12)


def test_llama3_scaling_keeps_short_waves_stretches_long_ones_and_blends_between():
    theta, head_size, length, factor = 1000.0, 32, 256, 8.0
    scaling = RopeScaling(
        kind="llama3",
        factor=factor,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_length=length,
    )
    expected, kinds = [], set()
    for pair in range(head_size // 2):
        frequency = theta ** (-2 * pair / head_size)
        wavelength = 2 * np.pi / frequency
        if wavelength < length / 4.0:
            kind = "short"
        elif wavelength > length / 1.0:
            kind, frequency = "long", frequency / factor
        else:
            smooth = (length / wavelength - 1.0) / (4.0 - 1.0)
            kind, frequency = "between", (1 - smooth) * frequency / factor + smooth * frequency
        kinds.add(kind)
        expected.append(frequency)
    found = angles_at(1, head_size, theta=theta, scaling=scaling)
    assert kinds == {"short", "long", "between"}
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
