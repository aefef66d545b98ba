import dataclasses
import functools
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.multi_token_attention import (
    IMPLEMENTATIONS,
    api,
    cudnn,
    multi_token_attention,
    multi_token_attention_weights,
)
from mta_jax.ops.target import targeting
from tests.ops import numpy_oracle
from tests.ops.attention_cases import Case, parametrize_cases
from tests.ops.attention_suite import AttentionSuite

SMALL = Case(
    query_length=9,
    num_kv_heads=2,
    head_size=3,
    pre_kq=(2, 3),
    pre_head=2,
    post_kq=(3, 5),
    post_head=4,
)
LONGER_KEYS = dataclasses.replace(SMALL, query_length=5, key_length=11)
LONGER_QUERIES = dataclasses.replace(SMALL, query_length=11, key_length=4)
ORACLE_CASES = (
    SMALL,
    dataclasses.replace(SMALL, is_causal=False),
    dataclasses.replace(SMALL, restriction="padding"),
    dataclasses.replace(SMALL, restriction="per_head"),
    dataclasses.replace(SMALL, restriction="packed"),
    dataclasses.replace(SMALL, restriction="interleaved"),
    dataclasses.replace(SMALL, restriction="interleaved", is_causal=False),
    dataclasses.replace(SMALL, key_padding="left"),
    dataclasses.replace(SMALL, key_padding="left", pre_kq=(3, 4), post_kq=(1, 2)),
    dataclasses.replace(SMALL, key_padding="right", pre_kq=(3, 4), restriction="packed"),
    dataclasses.replace(LONGER_KEYS, query_offset=6),
    dataclasses.replace(LONGER_KEYS, query_offset=2, restriction="packed"),
    dataclasses.replace(LONGER_KEYS, is_causal=False, restriction="interleaved"),
    dataclasses.replace(LONGER_QUERIES, query_offset=-7),
    dataclasses.replace(LONGER_QUERIES, is_causal=False, restriction="padding"),
    Case(query_length=7, num_heads=3, num_kv_heads=1, pre_kq=(6, 11), post_kq=(6, 11)),
    Case(query_length=1, num_heads=2, pre_kq=(2, 3), pre_head=2, post_kq=(2, 3), post_head=1),
    Case(query_length=6, num_heads=6, num_kv_heads=2, pre_head=3, post_head=2),
    Case(query_length=6, num_heads=2, value_size=3, post_kq=(2, 3)),
    Case(query_length=6, num_heads=2, pre_kq=(1, 1)),
    Case(query_length=6, num_heads=2),
)


class TestXla(AttentionSuite):
    implementation = "xla"


@pytest.mark.parametrize("implementation", ["reference", "xla", "xla_chunked"])
@parametrize_cases(*ORACLE_CASES)
def test_float64_output_and_weights_equal_the_loops(implementation, case):
    arrays = jax.tree.map(np.float64, case.arrays())
    arguments = case.restrictions() | case.options
    expected_out, expected_weights = numpy_oracle.multi_token_attention(**arrays, **arguments)
    with jax.enable_x64(True):
        out, weights = run_with_weights(implementation, case, arrays)
    np.testing.assert_allclose(out, expected_out, rtol=0, atol=1e-12)
    np.testing.assert_allclose(weights, expected_weights, rtol=0, atol=1e-12)


def run_with_weights(implementation, case, arrays):
    # For the weights of an implementation that has none.
    options = case.options | {"implementation": (implementation, "xla")}

    @jax.jit
    def run(arrays, restrictions):
        out = multi_token_attention(**arrays, **restrictions, **options)
        del arrays["value"]
        return out, multi_token_attention_weights(**arrays, **restrictions, **options)

    return jax.device_get(run(arrays, case.restrictions()))


@pytest.mark.parametrize("implementation", ["reference", "xla", "xla_chunked"])
def test_gradients_match_finite_differences(implementation):
    case = dataclasses.replace(SMALL, restriction="padding")
    options = case.options | {"implementation": implementation}
    with jax.enable_x64(True):
        restrictions = jax.tree.map(jnp.asarray, case.restrictions())
        cotangent = np.float64(case.cotangent())

        @jax.jit
        @jax.value_and_grad
        def loss(arrays):
            return jnp.vdot(multi_token_attention(**arrays, **restrictions, **options), cotangent)

        arrays = jax.tree.map(np.float64, case.arrays())
        _, gradients = loss(arrays)
        for name, gradient in gradients.items():
            step = 1e-5 * np.random.default_rng(0).normal(size=gradient.shape)
            ahead, _ = loss(arrays | {name: arrays[name] + step})
            behind, _ = loss(arrays | {name: arrays[name] - step})
            slope = np.vdot(gradient, 2 * step)
            np.testing.assert_allclose(ahead - behind, slope, rtol=1e-6, err_msg=name)


def test_masking_keys_alone_would_leak_between_documents():
    case = dataclasses.replace(SMALL, restriction="packed")
    ids = case.restrictions()["segment_ids"]
    rows = ids == ids[:, -1:]
    cotangent = np.where(rows[..., None, None], case.cotangent(), np.float32(0))

    def gradient_of_other_documents(**restrictions):
        def loss(query):
            arrays = jax.tree.map(jnp.asarray, case.arrays() | {"query": query})
            out = multi_token_attention(**arrays, **restrictions, implementation="reference")
            return jnp.vdot(out, cotangent)

        return np.asarray(jax.jit(jax.grad(loss))(case.arrays()["query"]))[~rows]

    same_document = jnp.asarray(ids[:, None, :, None] == ids[:, None, None, :])
    assert gradient_of_other_documents(mask=same_document).any()
    assert not gradient_of_other_documents(segment_ids=jnp.asarray(ids)).any()


@pytest.mark.parametrize("implementation", ["reference", "xla", "xla_chunked"])
def test_packed_documents_equal_each_document_alone(implementation):
    lengths = (4, 5)
    case = dataclasses.replace(SMALL, query_length=sum(lengths))
    arrays = jax.tree.map(np.float64, case.arrays())
    ids = np.repeat(np.arange(len(lengths)), lengths)
    with jax.enable_x64(True):
        attend = jax.jit(
            lambda arrays, ids: multi_token_attention(
                **arrays, segment_ids=ids, implementation=implementation
            )
        )
        packed = attend(arrays, np.tile(ids, (case.batch, 1)))
        for document in range(len(lengths)):
            inputs = {n: arrays[n][:, ids == document] for n in ("query", "key", "value")}
            alone = attend(arrays | inputs, None)
            np.testing.assert_allclose(packed[:, ids == document], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", ["reference", "xla", "xla_chunked"])
def test_a_step_left_out_is_its_identity_where_heads_have_masks_of_their_own(implementation):
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(1, 5, 4, 8)), jnp.float32) for _ in "qkv")
    mask = np.ones((1, 4, 5, 5), bool)
    mask[:, 1, :, 2] = False
    options = {
        "pre_head_kernel": jnp.asarray(rng.normal(size=(2, 2, 2)), jnp.float32),
        "mask": jnp.asarray(mask),
        "is_causal": False,
        "implementation": implementation,
    }
    identity = jnp.zeros((4, 2, 3)).at[:, 1, 1].set(1.0)
    attend = functools.partial(multi_token_attention, query, key, value, **options)
    np.testing.assert_allclose(attend(), attend(pre_kq_kernel=identity), atol=1e-6)


def test_scale_multiplies_the_logits():
    with jax.enable_x64(True):
        arrays = jax.tree.map(np.float64, SMALL.arrays())
        out = jax.jit(lambda arrays: multi_token_attention(**arrays, scale=0.25))(arrays)
    expected, _ = numpy_oracle.multi_token_attention(**arrays, scale=0.25)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_query_offset_may_be_traced():
    case = dataclasses.replace(LONGER_KEYS, query_offset=6)
    with jax.enable_x64(True):
        arrays = jax.tree.map(np.float64, case.arrays())
        attend = jax.jit(lambda arrays, n: multi_token_attention(**arrays, query_offset=n))
        expected, _ = numpy_oracle.multi_token_attention(**arrays, query_offset=6)
        np.testing.assert_allclose(attend(arrays, 6), expected, rtol=0, atol=1e-12)
        assert not np.allclose(attend(arrays, 5), expected)


def test_segments_of_keys_default_to_those_of_queries():
    case = dataclasses.replace(SMALL, restriction="packed")
    ids = case.restrictions()["segment_ids"]
    attend = jax.jit(lambda arrays, **ids: multi_token_attention(**arrays, **ids))
    default = attend(case.arrays(), segment_ids=ids)
    both = attend(case.arrays(), segment_ids=ids, key_segment_ids=ids)
    np.testing.assert_array_equal(default, both)


class TestSelection:
    """Which implementation serves a call."""

    arrays = jax.tree.map(jnp.asarray, Case(query_length=2, num_heads=1).arrays())

    @pytest.fixture
    def calls(self, monkeypatch):
        """Replaces all implementations; returns the names that were called, in order."""
        calls = []

        def replacement(name):
            def implementation(args):
                calls.append(name)
                return jnp.zeros(args.value.shape), None

            return implementation

        for name in IMPLEMENTATIONS:
            monkeypatch.setitem(IMPLEMENTATIONS, name, replacement(name))
        return calls

    @pytest.fixture
    def refuse(self, monkeypatch):
        """Makes an implementation refuse every call."""

        def refuse(name):
            def implementation(args):
                raise NotImplementedError(f"no {name} today")

            monkeypatch.setitem(IMPLEMENTATIONS, name, implementation)

        return refuse

    @pytest.mark.parametrize("name", IMPLEMENTATIONS)
    def test_name_runs_that_implementation(self, calls, name):
        multi_token_attention(**self.arrays, implementation=name)
        assert calls == [name]

    def test_default_is_the_chunked_one(self, calls):
        multi_token_attention(**self.arrays)
        assert calls == ["xla_chunked"]

    def test_name_is_a_demand(self, calls, refuse):
        refuse("reference")
        with pytest.raises(NotImplementedError, match="no reference today"):
            multi_token_attention(**self.arrays, implementation="reference")
        assert calls == []

    def test_sequence_takes_the_first_that_works(self, calls, refuse):
        multi_token_attention(**self.arrays, implementation=("reference", "xla"))
        assert calls == ["reference"]
        refuse("reference")
        multi_token_attention(**self.arrays, implementation=("reference", "xla"))
        assert calls == ["reference", "xla"]

    def test_sequence_without_any_that_works_names_every_reason(self, refuse):
        refuse("reference")
        refuse("xla")
        with pytest.raises(NotImplementedError, match=r"reference: no ref.* xla: no xla today"):
            multi_token_attention(**self.arrays, implementation=("reference", "xla"))

    def test_errors_of_an_implementation_are_not_swallowed(self, monkeypatch):
        def broken(args):
            raise ZeroDivisionError

        monkeypatch.setitem(IMPLEMENTATIONS, "reference", broken)
        with pytest.raises(ZeroDivisionError):
            multi_token_attention(**self.arrays, implementation=("reference", "xla"))

    @pytest.mark.parametrize("implementation", ["fast", ("xla", "fast")])
    def test_unknown_name_is_a_value_error(self, unchecked_shapes, implementation):
        with pytest.raises(ValueError, match=r"implementation 'fast': must be one of .*'xla'"):
            multi_token_attention(**self.arrays, implementation=implementation)

    def test_weights_follow_the_same_rules(self, refuse):
        refuse("xla")
        inputs = {name: self.arrays[name] for name in ("query", "key")}
        with pytest.raises(NotImplementedError, match="no xla today"):
            multi_token_attention_weights(**inputs, implementation="xla")
        weights = multi_token_attention_weights(**inputs, implementation=("xla", "reference"))
        assert weights.shape == (2, 1, 2, 2)

    def test_automatic_choice_is_logged_once(self, caplog):
        api._log_choice.cache_clear()
        with caplog.at_level(logging.INFO, logger="mta_jax"):
            multi_token_attention(**self.arrays, implementation="xla")
            assert caplog.messages == []
            multi_token_attention(**self.arrays)
            multi_token_attention(**self.arrays)
        assert caplog.messages == ["multi_token_attention: implementation 'xla_chunked'"]

    @pytest.mark.parametrize(
        ("platform", "kernel", "expected"),
        [
            ("cpu", None, "xla_chunked"),
            ("gpu", None, "cudnn"),
            ("gpu", "pre_kq_kernel", "xla_chunked"),
            ("tpu", None, "splash"),
            ("tpu", "pre_kq_kernel", "pallas_tpu"),
            ("tpu", "pre_head_kernel", "pallas_tpu"),
        ],
    )
    def test_best_by_platform(self, monkeypatch, platform, kernel, expected):
        chosen = []
        # Each implementation decides for itself, and is then only recorded.
        for name, implementation in IMPLEMENTATIONS.items():
            monkeypatch.setitem(
                IMPLEMENTATIONS, name, functools.partial(self.record, chosen, name, implementation)
            )

        # As on a machine with cuDNN.
        def library(query, key, value, **options):
            return value

        monkeypatch.setattr(cudnn, "dot_product_attention", library)
        shape = jax.ShapeDtypeStruct((1, 128, 1, 64), jnp.bfloat16)
        arrays = dict.fromkeys(("query", "key", "value"), shape)
        if kernel:
            sizes = {"pre_kq_kernel": (1, 6, 11), "pre_head_kernel": (1, 1, 1)}
            arrays[kernel] = jax.ShapeDtypeStruct(sizes[kernel], jnp.float32)
        with targeting(SimpleNamespace(platform=platform, device_kind="TPU v6 lite")):
            jax.eval_shape(lambda arrays: multi_token_attention(**arrays), arrays)
        assert chosen == [expected]

    @staticmethod
    def record(chosen, name, implementation, args):
        result = implementation(args)
        chosen.append(name)
        return result

    def test_tpu_kernels_are_not_chosen_where_xla_must_split_the_program(self, monkeypatch, calls):
        monkeypatch.setattr(jax, "device_count", lambda: 4)

        def attend(query, key, value):
            return multi_token_attention(query, key, value)

        spec = jax.sharding.PartitionSpec("data")
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        arrays = [self.arrays[name] for name in ("query", "key", "value")]
        with targeting(SimpleNamespace(platform="tpu", device_kind="")):
            attend(*arrays)
            assert calls == ["xla_chunked"]
            one_device = jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec)
            jax.eval_shape(one_device, *arrays)
        assert calls == ["xla_chunked", "pallas_tpu"]


@pytest.mark.parametrize("empty", ["batch", "queries", "keys"])
def test_nothing_gives_nothing(empty):
    batch, length, num_keys = (0 if empty == name else 3 for name in ("batch", "queries", "keys"))
    query = jnp.ones((batch, length, 2, 4))
    key = value = jnp.ones((batch, num_keys, 2, 4))
    kernel = jnp.ones((2, 2, 3))
    out = multi_token_attention(query, key, value, pre_kq_kernel=kernel)
    np.testing.assert_array_equal(out, np.zeros((batch, length, 2, 4)))
    weights = multi_token_attention_weights(query, key, pre_kq_kernel=kernel)
    assert weights.shape == (batch, 2, length, num_keys)
    with pytest.raises(ValueError, match="implementation is empty"):
        multi_token_attention(query, key, value, implementation=())


class TestArgumentErrors:
    """Arguments that disagree raise ValueError and name the culprit."""

    @staticmethod
    def arguments(**changes):
        shapes = {"query": (2, 5, 4, 8), "key": (2, 6, 2, 8), "value": (2, 6, 2, 8)}
        arrays = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        return arrays | changes

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"query": jnp.zeros((2, 5, 8))}, r"query has shape \(2, 5, 8\): expected 4 axes"),
            ({"key": jnp.zeros((2, 6, 8))}, r"key has shape \(2, 6, 8\): expected 4 axes"),
            ({"value": jnp.zeros((2, 6, 8))}, r"value has shape \(2, 6, 8\): expected 4 axes"),
            ({"key": jnp.zeros((1, 6, 2, 8))}, r"key has shape \(1, .* expected batch 2"),
            ({"key": jnp.zeros((2, 6, 2, 4))}, r"key has shape .* head size 8"),
            ({"value": jnp.zeros((1, 6, 2, 8))}, r"value has shape \(1, .* expected \(2, 6, 2\)"),
            ({"value": jnp.zeros((2, 5, 2, 8))}, r"value has shape .* expected \(2, 6, 2\)"),
            ({"value": jnp.zeros((2, 6, 1, 8))}, r"value has shape .* expected \(2, 6, 2\)"),
            ({"query": jnp.zeros((2, 5, 3, 8))}, r"3 query heads over 2 key/value heads"),
            ({"pre_kq_kernel": jnp.zeros((2, 3, 3))}, r"pre_kq_kernel has .* \[4, Cq, Ck\]"),
            ({"pre_kq_kernel": jnp.zeros((3, 3))}, r"pre_kq_kernel has shape \(3, 3\)"),
            ({"post_kq_kernel": jnp.zeros((5, 3, 3))}, r"post_kq_kernel has .* \[4, Cq, Ck\]"),
            ({"pre_kq_kernel": jnp.zeros((4, 3, 2))}, r"size 2 with key_padding 'both'.* odd"),
            ({"post_kq_kernel": jnp.zeros((4, 3, 4))}, r"size 4 with key_padding 'both'.* odd"),
            (
                {"pre_kq_kernel": jnp.zeros((4, 3, 3)), "key_padding": "centre"},
                r"key_padding 'centre': must be 'both', 'left' or 'right'",
            ),
            ({"pre_head_kernel": jnp.zeros((2, 2))}, r"pre_head_kernel has shape \(2, 2\)"),
            ({"pre_head_kernel": jnp.zeros((2, 2, 1))}, r"pre_head_kernel has shape \(2, 2, 1\)"),
            ({"pre_head_kernel": jnp.zeros((1, 2, 2))}, r"pre_head_kernel .* size = 4 query"),
            ({"post_head_kernel": jnp.zeros((4, 2, 2))}, r"post_head_kernel .* size = 4 query"),
            ({"mask": jnp.ones((5, 6), bool)}, r"mask has shape \(5, 6\): must broadcast to"),
            ({"mask": jnp.ones((2, 2, 5, 6), bool)}, r"mask has .* broadcast to \(2, 4, 5, 6\)"),
            ({"mask": jnp.ones((2, 1, 6, 5), bool)}, r"mask has .* broadcast to \(2, 4, 5, 6\)"),
            ({"mask": jnp.ones((1, 1, 5, 6))}, r"mask has dtype float32: expected bool"),
            (
                {"segment_ids": jnp.zeros((2, 5), int)},
                r"segment_ids without key_segment_ids, with 5 queries and 6 keys",
            ),
            ({"key_segment_ids": jnp.zeros((2, 6), int)}, r"key_segment_ids without segment_ids"),
            (
                {"segment_ids": jnp.zeros((5,), int), "key_segment_ids": jnp.zeros((2, 6), int)},
                r"segment_ids has shape \(5,\): expected \(2, 5\)",
            ),
            (
                {"segment_ids": jnp.zeros((2, 5), int), "key_segment_ids": jnp.zeros((2, 5), int)},
                r"key_segment_ids has shape \(2, 5\): expected \(2, 6\)",
            ),
            ({"dropout_rate": 1.0}, r"dropout_rate 1.0: must be in \[0, 1\)"),
            ({"dropout_rate": -0.1}, r"dropout_rate -0.1: must be in \[0, 1\)"),
            ({"dropout_rate": 0.5}, r"dropout_rate 0.5 with dropout_key None"),
            ({"dropout_key": jax.random.key(0)}, r"dropout_rate 0.0 with dropout_key"),
        ],
    )
    def test_names_the_argument(self, unchecked_shapes, changes, message):
        with pytest.raises(ValueError, match=message):
            multi_token_attention(**self.arguments(**changes))

    @pytest.mark.parametrize("implementation", ["reference", "xla", "xla_chunked"])
    def test_unchanged_arguments_are_right(self, implementation):
        out = multi_token_attention(**self.arguments(), implementation=implementation)
        assert out.shape == (2, 5, 4, 8)
