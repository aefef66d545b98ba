"""The row blocks: as accurate as the whole map, and as small as promised."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.multi_token_attention.xla_chunked import row_blocks
from mta_jax.ops.target import targeting
from tests.ops.attention_cases import FULL, PACKED, Case, parametrize_cases
from tests.ops.attention_suite import AttentionSuite
from tests.ops.yardsticks import (
    assert_as_accurate_as_plain,
    float32_yardsticks,
    out_and_gradients,
    stack,
)


class TestXlaChunked(AttentionSuite):
    """One block for nearly every case."""

    implementation = "xla_chunked"
    supports_weights = False


@pytest.mark.once
class TestSmallBlocks(AttentionSuite):
    """Many blocks, the last of them incomplete, with halos over several."""

    implementation = "xla_chunked"
    supports_weights = False

    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch):
        monkeypatch.setattr(row_blocks, "_MIN_ROWS", 8)
        monkeypatch.setattr(row_blocks, "_MAX_ROWS", 8)
        monkeypatch.setattr(row_blocks, "_MAX_STAGES", {"cpu": 3})


@pytest.mark.once
class TestOtherProcessors(AttentionSuite):
    """What is compiled for a TPU, which a CPU can run as well: convolution by banded products."""

    implementation = "xla_chunked"
    supports_weights = False

    @pytest.fixture(autouse=True)
    def accelerator(self, monkeypatch):
        monkeypatch.setattr(row_blocks, "_MIN_ROWS", 8)
        monkeypatch.setattr(row_blocks, "_MAX_ROWS", 8)
        with targeting(types.SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")):
            yield


@pytest.mark.once
@parametrize_cases(
    *(
        Case(
            batch=1,
            query_length=length,
            # Kernels of one tap need many heads for their errors to be more than chance.
            num_heads=8 if kernel == (1, 1) else 2,
            pre_kq=kernel,
            pre_head=2,
            post_kq=kernel,
            post_head=2,
            restriction=restriction,
        )
        for length, kernel, restriction in [
            (64, (1, 1), None),
            (128, (6, 11), "packed"),
            (161, (8, 13), "packed"),
            (1000, (2, 9), None),
        ]
    )
)
def test_lengths_and_kernel_sizes(case):
    seeds = range(5)

    @jax.jit
    def run(arrays, cotangent):
        attend = functools.partial(
            multi_token_attention,
            **jax.tree.map(jnp.asarray, case.restrictions()),
            implementation="xla_chunked",
        )
        return out_and_gradients(lambda arrays: attend(**arrays), arrays, cotangent)

    runs = [jax.device_get(run(case.arrays(seed), case.cotangent(seed))) for seed in seeds]
    assert_as_accurate_as_plain(stack(runs), *float32_yardsticks(case))


@parametrize_cases(FULL, PACKED)
def test_examples_all_at_once_are_examples_one_by_one(case):
    """What a CPU does, and what an accelerator does."""
    arrays = case.arrays()
    attend = functools.partial(
        multi_token_attention,
        **jax.tree.map(jnp.asarray, case.restrictions()),
        implementation="xla_chunked",
    )

    def run():
        call = jax.jit(lambda *args: out_and_gradients(lambda x: attend(**x), *args))
        return jax.device_get(call(arrays, case.cotangent()))

    one_by_one = run()
    with targeting(types.SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")):
        all_at_once = run()
    assert_as_accurate_as_plain(
        {name: x[None] for name, x in all_at_once.items()},
        *(jax.tree.map(lambda x: x[:1], x) for x in float32_yardsticks(case)),
    )
    for name, expected in one_by_one.items():
        np.testing.assert_allclose(all_at_once[name], expected, atol=1e-4)


def test_traced_offset_sees_the_same_keys():
    case = Case(query_length=20, key_length=40, num_heads=2, pre_kq=(2, 3), post_kq=(3, 3))
    arrays = jax.tree.map(jnp.asarray, case.arrays())
    attend = functools.partial(multi_token_attention, **arrays, implementation="xla_chunked")
    traced = jax.jit(lambda offset: attend(query_offset=offset))(20)
    np.testing.assert_allclose(traced, attend(query_offset=20), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "offset", "visible"), [(100, 0, [32, 64, 96, 100]), (100, -50, [1, 14, 46, 62])]
)
def test_blocks_read_only_the_keys_before_their_last_row(monkeypatch, length, offset, visible):
    monkeypatch.setattr(row_blocks, "_MAX_ROWS", 16)
    monkeypatch.setattr(row_blocks, "_MIN_ROWS", 16)
    args = row_blocks.Arguments(
        **jax.tree.map(jnp.asarray, Case(batch=1, query_length=length, num_heads=2).arrays()),
        query_offset=offset,
    )
    stages = row_blocks._plan(args).stages
    assert [stage.num_keys for stage in stages] == visible
    blocks = [block for stage in stages for block in range(stage.first, stage.end)]
    assert blocks == list(range(-(-length // 16)))


def peak_bytes(length, implementation):
    """Compiled temporary memory of output and gradients, one example, full MTA."""
    case = Case(
        batch=1,
        query_length=length,
        num_heads=16,
        head_size=96,
        pre_kq=(6, 11),
        pre_head=16,
        post_kq=(6, 11),
        post_head=16,
    )
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, case.arrays()))
    attend = functools.partial(multi_token_attention, implementation=implementation)

    def run(arrays):
        out, pullback = jax.vjp(lambda arrays: attend(**arrays), arrays)
        return pullback(out)

    return jax.jit(run).lower(shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.once
def test_memory_grows_with_the_length_and_not_its_square():
    small, large = peak_bytes(512, "xla_chunked"), peak_bytes(1024, "xla_chunked")
    assert large < 2.2 * small
    assert large < 0.1 * peak_bytes(1024, "xla")


def test_unlike_cases_share_no_plan():
    arrays = jax.tree.map(jnp.asarray, Case(batch=1, query_length=8, num_heads=2).arrays())
    args = row_blocks.Arguments(**arrays)
    other = dataclasses.replace(args, is_causal=False)
    assert row_blocks._plan(args) != row_blocks._plan(other)
    assert hash(row_blocks._plan(args)) == hash(row_blocks._plan(args))


def test_kernels_with_more_taps_than_can_be_unrolled_are_left_to_xla():
    case = Case(batch=1, query_length=12, num_heads=1, pre_kq=(17, 17))
    arrays = jax.tree.map(jnp.asarray, case.arrays())
    with pytest.raises(NotImplementedError, match=r"pre_kq_kernel of 17 x 17 taps: .* most 256"):
        multi_token_attention(**arrays, implementation="xla_chunked")
    # Kernels larger than the sequence are no more than that.
    np.testing.assert_allclose(
        multi_token_attention(**arrays),
        multi_token_attention(**arrays, implementation="reference"),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["pre_kq_kernel", "post_kq_kernel"])
def test_a_constant_kernel_has_the_gradients_of_an_argument(name):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (1, 12, 2, 4)) for k in keys[:3])
    kernel = jax.random.normal(keys[3], (2, 6, 11))
    segment_ids = jnp.array([[0] * 5 + [1] * 7])

    def gradients(query, kernel):
        def attend(query):
            kernels = {name: kernel}
            return multi_token_attention(
                query, key, value, **kernels, segment_ids=segment_ids, implementation="xla_chunked"
            )

        return jax.jacrev(attend)(query)

    expected = jax.jit(gradients)(query, kernel)
    got = jax.jit(lambda: gradients(query, kernel))()
    np.testing.assert_allclose(got, expected, atol=1e-5)
