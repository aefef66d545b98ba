"""The fused TPU kernels that have all four mixing steps, interpreted on the CPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu import stacks
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps import attend_in_four_steps, plan_of
from tests.ops import attention_cases
from tests.ops.attention_cases import CASES, Case, parametrize_cases
from tests.ops.pallas_tpu_suite import PallasTpuSuite, assert_a_scale_may_be_traced
from tests.ops.yardsticks import assert_as_accurate_as_plain, out_and_gradients, yardsticks

# A window owns 240 queries, of gradients 224, and a tile twice 112 keys: three rows of tiles.
TILES = Case(
    batch=1,
    query_length=500,
    num_heads=2,
    num_kv_heads=1,
    value_size=5,
    pre_kq=(6, 11),
    pre_head=2,
    post_kq=(6, 11),
    post_head=2,
)
PACKED = dataclasses.replace(TILES, restriction="packed")
# Two rows of tiles, of which each holds some future.
SHORT = dataclasses.replace(TILES, query_length=250)
# Queries in the middle of the keys.
PART = dataclasses.replace(TILES, query_length=260, key_length=500, query_offset=190)
PART_PACKED = dataclasses.replace(PART, restriction="packed")
FAST_CASES = (
    attention_cases.FULL,
    attention_cases.PACKED,
    attention_cases.SQUARE,
    PART_PACKED,
)
SLOW_CASES = (
    *(case for case in CASES if case not in FAST_CASES),
    TILES,
    PACKED,
    dataclasses.replace(SHORT, restriction="interleaved"),
    dataclasses.replace(SHORT, post_kq=None, post_head=None, num_kv_heads=2),
    dataclasses.replace(SHORT, pre_kq=None, pre_head=None),
    # Some of the steps.
    dataclasses.replace(TILES, pre_head=None, post_head=None, restriction="interleaved"),
    dataclasses.replace(TILES, pre_kq=None, post_head=None, query_length=500),
    dataclasses.replace(TILES, post_kq=None, query_length=500, restriction="packed"),
    # Up to the last key and beyond, before the first key, and few queries or keys.
    PART,
    dataclasses.replace(PART, query_offset=300, restriction="packed"),
    dataclasses.replace(PART, query_length=300, query_offset=-21),
    dataclasses.replace(PART, query_length=130, key_length=100, restriction="interleaved"),
    dataclasses.replace(PART, query_length=7, query_offset=250, num_kv_heads=2),
    # The largest kernels, an even one, and windows that reach to one side only.
    dataclasses.replace(TILES, pre_kq=(9, 33), post_kq=(9, 13), query_length=500),
    dataclasses.replace(TILES, pre_kq=(4, 8), post_kq=(5, 6), key_padding="left", query_length=500),
    dataclasses.replace(TILES, pre_kq=(4, 8), post_kq=(1, 6), key_padding="right", batch=2),
)


@pytest.mark.once
class TestFourSteps(PallasTpuSuite):
    @parametrize_cases(*FAST_CASES)
    def test_float32_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        super().test_float32_output_and_every_gradient_are_as_accurate_as_plain(case)

    @pytest.mark.slow
    @parametrize_cases(*SLOW_CASES)
    def test_more_float32_outputs_and_gradients_are_as_accurate_as_plain(self, case):
        super().test_float32_output_and_every_gradient_are_as_accurate_as_plain(case)

    @parametrize_cases(attention_cases.FULL)
    def test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        super().test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(case)

    @pytest.mark.slow
    @parametrize_cases(TILES, PACKED)
    def test_more_bfloat16_outputs_and_gradients_are_as_accurate_as_plain(self, case):
        super().test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(case)

    @parametrize_cases(attention_cases.FULL, PACKED)
    def test_future_tokens_get_zero_gradient(self, case):
        super().test_future_tokens_get_zero_gradient(case)

    @parametrize_cases(attention_cases.PACKED, PACKED)
    def test_other_documents_get_zero_gradient(self, case):
        super().test_other_documents_get_zero_gradient(case)


def run(case, *, interpret=True, **changes):
    def attend(arrays):
        restrictions = jax.tree.map(jnp.asarray, case.restrictions())
        arguments = Arguments(**arrays, **restrictions, **case.options)
        plan = plan_of(arguments, windows=2, memory_limit=2**40, interpret=interpret)
        return attend_in_four_steps(arguments, dataclasses.replace(plan, **changes))

    return jax.jit(lambda *draw: out_and_gradients(attend, *draw))(case.arrays(), case.cotangent())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"windows": 1}, {"windows": 1, "kept_maps": 1}, {"keeps_logits": False, "kept_maps": 0}],
    ids=str,
)
def test_with_less_memory_it_computes_more_and_gives_the_same(changes):
    plain, exact = yardsticks(PACKED, PACKED.arrays(), PACKED.cotangent())
    assert_as_accurate_as_plain(run(PACKED, **changes), plain, exact)


@pytest.mark.slow
def test_rounds_of_several_heads_as_on_a_tpu_give_the_same(monkeypatch):
    monkeypatch.setattr(stacks, "_INTERPRETED_AT_ONCE", stacks.AT_ONCE)
    case = attention_cases.SQUARE
    plain, exact = yardsticks(case, case.arrays(), case.cotangent())
    assert_as_accurate_as_plain(run(case), plain, exact)


@pytest.mark.slow
def test_heads_wider_than_a_register():
    case = dataclasses.replace(SHORT, head_size=64, value_size=136)
    plain, exact = yardsticks(case, case.arrays(), case.cotangent())
    assert_as_accurate_as_plain(run(case), plain, exact)


@pytest.mark.slow
def test_with_the_least_memory_a_part_of_the_queries_is_the_same():
    case = dataclasses.replace(PART_PACKED, query_length=100, key_length=300, query_offset=150)
    plain, exact = yardsticks(case, case.arrays(), case.cotangent())
    got = run(case, windows=1, keeps_logits=False, kept_maps=0)
    assert_as_accurate_as_plain(got, plain, exact)


@pytest.mark.parametrize(
    ("mebibytes", "expected"), [(20, (1, True, 0)), (23, (2, True, 0)), (28, (2, True, 2))]
)
def test_what_is_kept_depends_on_the_memory(mebibytes, expected):
    arguments = Arguments(**jax.tree.map(jnp.asarray, PACKED.arrays()))
    plan = plan_of(arguments, windows=2, memory_limit=mebibytes * 2**20, interpret=True)
    assert (plan.windows, plan.keeps_logits, plan.kept_maps) == expected


def test_reads_no_memory_that_it_has_not_written():
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    got = run(PACKED, interpret=interpret)
    assert all(np.isfinite(x).all() for x in got.values())


@pytest.mark.once
def test_documents_that_no_tile_of_a_row_shares_are_skipped():
    case = dataclasses.replace(TILES, query_length=700)
    segment_ids = jnp.asarray(np.arange(700)[None] // 350, jnp.int32)
    arrays = jax.tree.map(jnp.asarray, case.arrays())

    def loss(arrays, implementation):
        out = multi_token_attention(
            **arrays, segment_ids=segment_ids, implementation=implementation
        )
        return jnp.sum(jnp.sin(out))

    run = jax.jit(jax.grad(loss), static_argnums=1)
    got, expected = run(arrays, "pallas_tpu"), run(arrays, "reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), got, expected)


def test_traced_scale():
    case = dataclasses.replace(TILES, query_length=9)
    assert_a_scale_may_be_traced(case.arrays(), rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "message"),
    [((10, 3), "post_kq_kernel of size 10x3: at most 9 query taps"), ((2, 35), "16 keys")],
)
def test_kernels_that_are_too_large_are_refused_by_name(size, message):
    case = dataclasses.replace(TILES, post_kq=size, query_length=9)
    with pytest.raises(NotImplementedError, match=message):
        multi_token_attention(
            **jax.tree.map(jnp.asarray, case.arrays()), implementation="pallas_tpu"
        )


def test_groups_that_no_chip_has_the_memory_for_are_refused():
    case = dataclasses.replace(TILES, query_length=9)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), case.arrays())

    def plan(arrays):
        return plan_of(Arguments(**arrays), windows=2, memory_limit=2**20, interpret=True)

    with pytest.raises(NotImplementedError, match=r"mixing groups of 2 heads of 8: .* MiB"):
        jax.eval_shape(plan, shapes)
