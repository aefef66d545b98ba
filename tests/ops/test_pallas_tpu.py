"""The fused TPU kernels that hold one head, interpreted on the CPU."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu import pallas_tpu
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head import BlockSizes
from mta_jax.ops.target import targeting
from tests.ops.attention_cases import Case, parametrize_cases
from tests.ops.pallas_tpu_suite import PallasTpuSuite, assert_a_scale_may_be_traced
from tests.ops.yardsticks import assert_as_accurate_as_plain, out_and_gradients, yardsticks

# Interpreted tiles are 128 wide, so 257 positions make three of them.
SMALL = Case(query_length=63, num_heads=2, num_kv_heads=1, pre_kq=(2, 9))
TILES = Case(batch=1, query_length=257, num_heads=4, num_kv_heads=2, head_size=16, pre_kq=(6, 11))
MIXED = dataclasses.replace(SMALL, num_heads=4, num_kv_heads=2, post_head=4)
PACKED = dataclasses.replace(TILES, batch=2, num_heads=2, num_kv_heads=1, restriction="packed")
INTERLEAVED = dataclasses.replace(PACKED, query_length=111, restriction="interleaved")
CASES = (
    SMALL,
    TILES,
    MIXED,
    PACKED,
    INTERLEAVED,
    dataclasses.replace(MIXED, num_kv_heads=None, post_head=2, query_length=64),
    dataclasses.replace(MIXED, num_kv_heads=1, post_head=2),
    Case(batch=1, query_length=7, num_heads=2, pre_kq=(6, 11)),
    Case(batch=1, query_length=128, num_heads=1, pre_kq=(8, 13), value_size=5),
    Case(batch=1, query_length=130, num_heads=1, pre_kq=(3, 4), key_padding="left"),
    Case(batch=1, query_length=130, num_heads=1, pre_kq=(3, 4), key_padding="right"),
    # Without any band.
    Case(batch=1, query_length=130, num_heads=2, pre_kq=(1, 16), key_padding="left"),
    Case(batch=1, query_length=1000, num_heads=1, head_size=32, pre_kq=(6, 11)),
)


class TestPallasTpu(PallasTpuSuite):
    small_case = SMALL
    identity_case = SMALL

    @parametrize_cases(*CASES)
    def test_float32_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        super().test_float32_output_and_every_gradient_are_as_accurate_as_plain(case)

    @parametrize_cases(TILES, MIXED, PACKED)
    def test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        super().test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(case)

    @parametrize_cases(SMALL, TILES, PACKED)
    def test_future_tokens_get_zero_gradient(self, case):
        super().test_future_tokens_get_zero_gradient(case)

    @parametrize_cases(PACKED, INTERLEAVED)
    def test_other_documents_get_zero_gradient(self, case):
        super().test_other_documents_get_zero_gradient(case)

    @parametrize_cases(TILES, PACKED)
    def test_same_answer_twice_bit_for_bit(self, case):
        super().test_same_answer_twice_bit_for_bit(case)


def run(case, sizes, interpret=None):
    def attend(arrays):
        restrictions = jax.tree.map(jnp.asarray, case.restrictions())
        arguments = Arguments(**arrays, **restrictions, **case.options)
        return pallas_tpu(arguments, blocks=sizes, interpret=interpret)[0]

    return jax.jit(functools.partial(out_and_gradients, attend))(case.arrays(), case.cotangent())


@pytest.mark.parametrize("size", [(1, 1), (6, 11)])
def test_single_token_takes_its_value(size):
    case = Case(query_length=1, num_heads=2, pre_kq=size)
    arrays, cotangent = case.arrays(), case.cotangent()
    got = run(case, None)
    np.testing.assert_array_equal(got.pop("out"), arrays["value"])
    np.testing.assert_array_equal(got.pop("value"), cotangent)
    # Nothing moves the one weight. What is left of a difference of two equal sums is rounding.
    for gradient in got.values():
        np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-5)


def test_large_tiles_and_steps_inside_them_give_the_same():
    case = dataclasses.replace(PACKED, query_length=500, batch=1)
    sizes = BlockSizes(block=256, forward_rows=128, forward_columns=128)
    plain, exact = yardsticks(case, case.arrays(), case.cotangent())
    assert_as_accurate_as_plain(run(case, sizes), plain, exact)


def test_reads_no_memory_that_it_has_not_written():
    case = dataclasses.replace(PACKED, query_length=130, batch=1)
    interpret = pltpu.InterpretParams(uninitialized_memory="nan")
    got = run(case, BlockSizes(block=128), interpret)
    assert all(np.isfinite(x).all() for x in got.values())


def test_is_refused_where_shard_map_keeps_track_of_axes():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec("data")

    def attend(query, key, value):
        kernel = jnp.ones((2, 1, 3))
        arrays = {"query": query, "key": key, "value": value, "pre_kq_kernel": kernel}
        return multi_token_attention(**arrays, implementation="pallas_tpu")

    arrays = [jnp.ones((1, 4, 2, 8))] * 3
    with pytest.raises(NotImplementedError, match="shard_map over data with check_vma=True"):
        jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec)(*arrays)


def test_lengths_beyond_the_memory_of_a_chip_are_refused():
    case = dataclasses.replace(SMALL, batch=1, query_length=32768)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), case.arrays())
    with pytest.raises(NotImplementedError, match=r"length 32768 with head size 8: .* MiB"):
        jax.eval_shape(lambda arrays: pallas_tpu(Arguments(**arrays)), shapes)


def test_tpus_that_it_was_never_compiled_for_are_refused():
    arrays = jax.tree.map(jnp.asarray, SMALL.arrays())
    with (
        targeting(types.SimpleNamespace(platform="tpu", device_kind="TPU v4")),
        pytest.raises(NotImplementedError, match="device 'TPU v4': compiled for v5e, v5p and v6e"),
    ):
        multi_token_attention(**arrays, implementation="pallas_tpu")


@pytest.mark.parametrize(("dtype", "out_dtype"), [("float32", "float16"), ("bfloat16", "float32")])
def test_writes_any_dtype(dtype, out_dtype):
    arrays = {name: jnp.asarray(x, dtype) for name, x in SMALL.arrays().items()}
    attend = functools.partial(multi_token_attention, **arrays, out_dtype=out_dtype)
    out, expected = attend(implementation="pallas_tpu"), attend(implementation="xla")
    assert out.dtype == out_dtype
    np.testing.assert_allclose(
        np.float32(out), np.float32(expected), atol=2e-3 if out_dtype == "float16" else 2e-2
    )


def test_a_scale_of_zero_has_gradients():
    case = dataclasses.replace(SMALL, query_length=9)
    arrays = jax.tree.map(jnp.asarray, case.arrays())

    def loss(arrays, implementation):
        out = multi_token_attention(**arrays, scale=0.0, implementation=implementation)
        return jnp.sum(jnp.sin(out))

    run = jax.jit(jax.grad(loss), static_argnums=1)
    got, expected = run(arrays, "pallas_tpu"), run(arrays, "reference")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)


def test_traced_scale():
    case = dataclasses.replace(SMALL, query_length=9)
    assert_a_scale_may_be_traced(case.arrays(), rtol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(
    "case",
    [
        dataclasses.replace(SMALL, restriction="packed"),
        Case(query_length=63, pre_head=2, post_head=2, restriction="packed"),
        dataclasses.replace(SMALL, pre_head=2, post_kq=(2, 9), key_length=65),
    ],
    ids=str,
)
def test_64_bit_mode_changes_nothing(case):
    """Programs of the grid and loops in them would else be counted by other integers."""
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in case.arrays().items()}
    cotangent = jnp.asarray(case.cotangent(), jnp.float32)
    restrictions = jax.tree.map(jnp.asarray, case.restrictions())

    def run():
        def attend(arrays):
            return multi_token_attention(
                **arrays, **restrictions, **case.options, implementation="pallas_tpu"
            )

        return jax.jit(functools.partial(out_and_gradients, attend))(arrays, cotangent)

    expected = run()
    with jax.enable_x64(True):
        got = run()
    assert {x.dtype for x in got.values()} == {jnp.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_offset": 1},
        {"segment_ids": np.arange(63) // 30, "key_segment_ids": np.arange(63) // 20},
    ],
    ids=["offset", "documents"],
)
def test_other_keys_than_those_of_the_queries(changes):
    """The kernels for all four steps take these."""
    arrays = jax.tree.map(jnp.asarray, SMALL.arrays())
    changes = {
        name: x if isinstance(x, int) else jnp.tile(jnp.asarray(x, jnp.int32), (SMALL.batch, 1))
        for name, x in changes.items()
    }

    def attend(arrays, implementation):
        return multi_token_attention(**arrays, **changes, implementation=implementation)

    run = jax.jit(attend, static_argnums=1)
    got, expected = run(arrays, "pallas_tpu"), run(arrays, "reference")
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_kq_kernel": (10, 3)}, "kernel size 10x3: at most 9 query taps"),
        ({"pre_kq_kernel": (2, 35)}, "kernel size 2x35: at most 9 .* 16 keys"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    arrays = jax.tree.map(jnp.asarray, SMALL.arrays())
    if size := changes.get("pre_kq_kernel"):
        changes = {"pre_kq_kernel": jnp.zeros((2, *size))}
    with pytest.raises(NotImplementedError, match=message):
        multi_token_attention(**(arrays | changes), implementation="pallas_tpu")
