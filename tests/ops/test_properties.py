"""Properties that hold for any shapes, kernel sizes, masks and documents."""

import dataclasses
import functools

import hypothesis
import jax
import numpy as np
from hypothesis import strategies as st

from mta_jax.ops.key_query_convolution import key_query_convolution
from mta_jax.ops.multi_token_attention import multi_token_attention
from tests.ops import numpy_oracle
from tests.ops.attention_cases import Case, identity_draw

RESTRICTIONS = (None, "padding", "per_head", "packed", "interleaved")

few_examples = hypothesis.settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
seeds = st.integers(0, 100)
key_paddings = st.sampled_from(["both", "left", "right"])


@functools.partial(jax.jit, static_argnames=("is_causal", "query_offset", "key_padding"))
def attend(arrays, restrictions, **options):
    return multi_token_attention(**arrays, **restrictions, **options, implementation="xla")


convolve = jax.jit(key_query_convolution, static_argnames="key_padding")


@st.composite
def kernel_sizes(draw, key_padding):
    rows, keys = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    return rows, 2 * keys - 1 if key_padding == "both" else keys


@st.composite
def cases(draw, min_length=1, restrictions=RESTRICTIONS):
    """Causal calls of as many queries as keys."""
    num_heads = draw(st.sampled_from([1, 2, 4]))
    divisors = [size for size in (1, 2, 4) if num_heads % size == 0]
    key_padding = draw(key_paddings)
    length = draw(st.integers(min_length, 9))
    return Case(
        query_length=length,
        num_heads=num_heads,
        num_kv_heads=draw(st.sampled_from(divisors)),
        head_size=2,
        pre_kq=draw(st.none() | kernel_sizes(key_padding)),
        pre_head=draw(st.sampled_from([None, *divisors])),
        post_kq=draw(st.none() | kernel_sizes(key_padding)),
        post_head=draw(st.sampled_from([None, *divisors])),
        key_padding=key_padding,
        restriction=draw(st.sampled_from(restrictions)) if length > 1 else None,
    )


@st.composite
def any_cases(draw):
    return dataclasses.replace(
        draw(cases()),
        key_length=draw(st.none() | st.integers(2, 9)),
        is_causal=draw(st.booleans()),
        query_offset=draw(st.integers(-3, 5)),
    )


@few_examples
@hypothesis.given(any_cases(), seeds)
def test_xla_equals_the_loops(case, seed):
    arrays = jax.tree.map(np.float64, case.arrays(seed))
    restrictions = case.restrictions()
    expected, _ = numpy_oracle.multi_token_attention(**arrays, **restrictions, **case.options)
    with jax.enable_x64(True):
        out = attend(arrays, restrictions, **case.options)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


@few_examples
@hypothesis.given(any_cases(), seeds)
def test_identity_kernels_are_a_no_op(case, seed):
    inputs, kernels = jax.tree.map(np.float64, identity_draw(case, seed))
    with jax.enable_x64(True):
        with_kernels = attend(inputs | kernels, case.restrictions(), **case.options)
        without = attend(inputs, case.restrictions(), **case.options)
    np.testing.assert_allclose(with_kernels, without, rtol=0, atol=1e-12)


@few_examples
@hypothesis.given(cases(min_length=2), st.data())
def test_changing_a_token_keeps_every_bit_before_it(case, data):
    token = data.draw(st.integers(1, case.query_length - 1))
    arrays = case.arrays(data.draw(seeds))
    changed = jax.tree.map(np.copy, arrays)
    for name in ("query", "key", "value"):
        changed[name][:, token] += 1
    before, after = (attend(x, case.restrictions(), **case.options) for x in (arrays, changed))
    np.testing.assert_array_equal(before[:, :token], after[:, :token])
    sees_itself = case.allowed()[:, :, token, token].any(axis=1)
    differs = (before[:, token] != after[:, token]).any(axis=(1, 2))
    assert differs[sees_itself].all()


@few_examples
@hypothesis.given(cases(min_length=2, restrictions=("packed", "interleaved")), st.data())
def test_reordering_a_document_keeps_every_bit_of_the_others(case, data):
    restrictions = case.restrictions()
    in_document = restrictions["segment_ids"][0] == restrictions["segment_ids"][0, 0]
    (tokens,) = np.nonzero(in_document)
    order = data.draw(st.permutations(list(tokens)))
    arrays = case.arrays(data.draw(seeds))
    reordered = jax.tree.map(np.copy, arrays)
    for name in ("query", "key", "value"):
        reordered[name][0, tokens] = arrays[name][0, order]
    before, after = (attend(x, restrictions, **case.options) for x in (arrays, reordered))
    np.testing.assert_array_equal(before[0, ~in_document], after[0, ~in_document])
    np.testing.assert_array_equal(before[1:], after[1:])
    moved = list(tokens) != list(order)
    assert (before[0, in_document] != after[0, in_document]).any() == moved


@few_examples
@hypothesis.given(st.data(), key_paddings, st.booleans(), seeds)
def test_convolution_is_linear_in_map_and_kernel(data, key_padding, packed, seed):
    rng = np.random.default_rng(seed)
    rows, keys = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 20))
    x, y = rng.normal(size=(2, 1, 2, rows, keys))
    kernel, other = rng.normal(size=(2, 2, *data.draw(kernel_sizes(key_padding))))
    ids = rng.integers(0, 2, size=(1, rows)) if packed else None
    with jax.enable_x64(True):
        run = functools.partial(convolve, key_padding=key_padding, segment_ids=ids)
        in_map = run(2 * x + 3 * y, kernel)
        expected_in_map = 2 * run(x, kernel) + 3 * run(y, kernel)
        in_kernel = run(x, 2 * kernel + 3 * other)
        expected_in_kernel = 2 * run(x, kernel) + 3 * run(x, other)
    assert in_map.any()
    np.testing.assert_allclose(in_map, expected_in_map, rtol=0, atol=1e-12)
    np.testing.assert_allclose(in_kernel, expected_in_kernel, rtol=0, atol=1e-12)
