"""The fused TPU kernels that hold all heads of a mixing group, interpreted on the CPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu import pallas_tpu, stacks
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads import Tiles, plan_of
from tests.ops.attention_cases import Case, parametrize_cases
from tests.ops.pallas_tpu_suite import PallasTpuSuite, assert_a_scale_may_be_traced
from tests.ops.yardsticks import assert_as_accurate_as_plain, out_and_gradients, yardsticks

SMALL = Case(query_length=63, num_heads=2, num_kv_heads=1, pre_head=2, post_head=2)
# Interpreted tiles are 128 wide, so 257 positions make three of them.
TILES = Case(
    batch=1,
    query_length=257,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    value_size=5,
    pre_head=4,
    post_head=4,
)
PACKED = dataclasses.replace(TILES, batch=2, pre_head=2, restriction="packed")
INTERLEAVED = dataclasses.replace(PACKED, query_length=111, restriction="interleaved")
# Rows before the first key, beside those that see a part of the keys, and keys after them.
BLANK = dataclasses.replace(SMALL, query_length=200, key_length=150, query_offset=-140)
LONGER_KEYS = dataclasses.replace(SMALL, key_length=150)
PART = Case(
    query_length=111,
    key_length=300,
    num_heads=4,
    num_kv_heads=2,
    value_size=5,
    pre_head=2,
    post_head=4,
    query_offset=133,
    restriction="packed",
)
CASES = (
    SMALL,
    TILES,
    PACKED,
    INTERLEAVED,
    LONGER_KEYS,
    BLANK,
    PART,
    # One of the two steps.
    dataclasses.replace(SMALL, pre_head=None),
    dataclasses.replace(SMALL, post_head=None, num_heads=4, num_kv_heads=4),
    # Groups of heads within those that share keys, beside them, and across them.
    dataclasses.replace(SMALL, num_heads=8, num_kv_heads=2),
    dataclasses.replace(SMALL, num_heads=6, num_kv_heads=2, pre_head=2, post_head=1),
    dataclasses.replace(SMALL, num_heads=6, num_kv_heads=3, pre_head=2, post_head=3),
    dataclasses.replace(SMALL, num_heads=16, num_kv_heads=16, pre_head=16, post_head=16),
)


@pytest.mark.once
class TestHeadMixing(PallasTpuSuite):
    small_case = SMALL
    identity_case = SMALL

    @parametrize_cases(*CASES)
    def test_float32_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        super().test_float32_output_and_every_gradient_are_as_accurate_as_plain(case)

    @parametrize_cases(TILES, PACKED, PART)
    def test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        super().test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(case)

    @parametrize_cases(SMALL, TILES, PACKED, LONGER_KEYS)
    def test_future_tokens_get_zero_gradient(self, case):
        super().test_future_tokens_get_zero_gradient(case)

    @parametrize_cases(PACKED, INTERLEAVED, PART)
    def test_other_documents_get_zero_gradient(self, case):
        super().test_other_documents_get_zero_gradient(case)

    @parametrize_cases(BLANK)
    def test_rows_without_allowed_key_give_zeros_and_finite_gradients(self, case):
        super().test_rows_without_allowed_key_give_zeros_and_finite_gradients(case)

    @parametrize_cases(TILES, PACKED)
    def test_same_answer_twice_bit_for_bit(self, case):
        super().test_same_answer_twice_bit_for_bit(case)


def run(case, tiles, interpret=None):
    def attend(arrays):
        restrictions = jax.tree.map(jnp.asarray, case.restrictions())
        arguments = Arguments(**arrays, **restrictions, **case.options)
        return pallas_tpu(arguments, tiles=tiles, interpret=interpret)[0]

    return jax.jit(functools.partial(out_and_gradients, attend))(case.arrays(), case.cotangent())


@pytest.mark.once
def test_rounds_of_several_heads_as_on_a_tpu_give_the_same(monkeypatch):
    monkeypatch.setattr(stacks, "_INTERPRETED_AT_ONCE", stacks.AT_ONCE)
    plain, exact = yardsticks(PACKED, PACKED.arrays(), PACKED.cotangent())
    assert_as_accurate_as_plain(run(PACKED, None), plain, exact)


@pytest.mark.parametrize(
    "tiles",
    [
        (128, 256),
        *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in [(128, 512), (256, 256)]),
    ],
)
def test_tiles_of_other_sizes_give_the_same(tiles):
    case = dataclasses.replace(PACKED, query_length=700, batch=1)
    plain, exact = yardsticks(case, case.arrays(), case.cotangent())
    got = run(case, Tiles(query_block=tiles[0], key_block=tiles[1]))
    assert_as_accurate_as_plain(got, plain, exact)


@parametrize_cases(dataclasses.replace(PACKED, query_length=300, batch=1), BLANK, PART)
def test_reads_no_memory_that_it_has_not_written(case):
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    got = run(case, Tiles(query_block=128, key_block=256), interpret)
    assert all(np.isfinite(x).all() for x in got.values())


def test_one_program_serves_every_offset():
    """Three tiles of queries and of keys, the last ones padded."""
    shape = dataclasses.replace(SMALL, query_length=300, key_length=700, batch=1)
    tiles = Tiles(query_block=128, key_block=256)

    @jax.jit
    def run(arrays, cotangent, offset):
        def attend(arrays):
            return pallas_tpu(Arguments(**arrays, query_offset=offset), tiles=tiles)[0]

        return out_and_gradients(attend, arrays, cotangent)

    # Before the keys, in part or in whole, on a border of tiles, beside one, and after the keys.
    for offset in (-1000, -200, -128, -1, 0, 1, 127, 128, 129, 256, 399, 400, 401, 640, 1000):
        case = dataclasses.replace(shape, query_offset=offset)
        arrays, cotangent = case.arrays(), case.cotangent()
        got = jax.device_get(run(arrays, cotangent, offset))
        assert_as_accurate_as_plain(got, *yardsticks(case, arrays, cotangent))
        allowed = case.allowed()
        blank, unseen = ~allowed.any(axis=(1, 3)), ~allowed.any(axis=(1, 2))
        assert not got["out"][blank].any()
        assert not got["query"][blank].any()
        assert not got["key"][unseen].any()
        assert not got["value"][unseen].any()


@pytest.mark.parametrize(("query_length", "key_length"), [(2**18, 2**18), (2**16, 2**18)])
def test_refuses_more_tiles_than_their_table_may_have(query_length, key_length):
    shapes = {"query": query_length, "key": key_length, "value": key_length}
    arrays = {n: jax.ShapeDtypeStruct((1, x, 2, 128), jnp.bfloat16) for n, x in shapes.items()}
    arrays["post_head_kernel"] = jax.ShapeDtypeStruct((1, 2, 2), jnp.float32)

    def plan(arrays):
        return plan_of(Arguments(**arrays), tiles=Tiles(), memory_limit=2**40, interpret=True)

    with pytest.raises(NotImplementedError, match="the order of the tiles"):
        jax.eval_shape(plan, arrays)


@pytest.mark.parametrize("kernels", [("pre", "post"), ("post",)])
def test_traced_scale(kernels):
    arrays = dataclasses.replace(SMALL, query_length=9).arrays()
    for side in {"pre", "post"} - set(kernels):
        del arrays[f"{side}_head_kernel"]
    assert_a_scale_may_be_traced(arrays, rtol=1e-4)
