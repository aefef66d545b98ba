"""What every implementation of `multi_token_attention` must do.

A test class subclasses `AttentionSuite`, names its implementation and sets to False
the `supports_*` flags of what it lacks; there the suite checks that the call is
refused with NotImplementedError before it skips.

The rule for errors is in `tests.ops.yardsticks`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mta_jax.ops.multi_token_attention import (
    multi_token_attention,
    multi_token_attention_weights,
)
from tests.ops.attention_cases import (
    BLANK_ROW_CASES,
    CASES,
    CAUSAL_CASES,
    FULL,
    PACKED,
    SEEDS,
    SEGMENT_CASES,
    SQUARE,
    SUFFIX,
    Arrays,
    Case,
    identity_draw,
    parametrize_cases,
)
from tests.ops.yardsticks import (
    assert_as_accurate_as_plain,
    bfloat16_draw,
    bfloat16_yardsticks,
    float32_yardsticks,
    float64_reference,
    one_hot_values,
    one_hot_yardsticks,
    out_and_gradients,
    stack,
    stacked_draws,
    value_gradient,
    yardsticks,
)


class AttentionSuite:
    """Tests of one implementation against the reference."""

    implementation: str
    small_case = SQUARE
    identity_case = FULL
    supports_bfloat16 = True
    supports_bidirectional = True
    supports_dropout = True
    supports_mask = True
    supports_no_convolution = True
    supports_one_sided_padding = True
    supports_post_convolution = True
    supports_pre_head_mixing = True
    supports_segments = True
    supports_unequal_lengths = True
    supports_value_size = True
    supports_varying_axes = True
    supports_weights = True

    def attend(self, **arguments: Any) -> Any:
        return multi_token_attention(**arguments, implementation=self.implementation)

    def attend_weights(self, **arguments: Any) -> Any:
        return multi_token_attention_weights(**arguments, implementation=self.implementation)

    def call(self, case: Case, restrictions: Arrays, **options: Any) -> Callable[[Arrays], Any]:
        """The case as a function of the arrays with gradients."""
        return lambda arrays: self.attend(**arrays, **restrictions, **case.options, **options)

    def run(
        self,
        case: Case,
        arrays: Arrays,
        cotangent: np.ndarray,
        dropout_rate: float = 0.0,
        dropout_key: jax.Array | None = None,
    ) -> Arrays:
        """The output, as "out", and the gradient of each array under its own name."""
        run = _compiled(type(self), case, dropout_rate)
        return jax.device_get(run(arrays, cotangent, case.restrictions(), dropout_key))

    def require(self, case: Case, feature: str | None = None, **options: Any) -> None:
        """Skips a case that the implementation lacks and, as it must, refuses."""
        needed = case.features | ({feature} if feature else set())
        missing = sorted(name for name in needed if not getattr(self, f"supports_{name}"))
        if not missing:
            return
        dtype = jnp.bfloat16 if feature == "bfloat16" else jnp.float32
        arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), case.arrays())
        restrictions = jax.tree.map(jnp.asarray, case.restrictions())
        with pytest.raises(NotImplementedError):
            self.call(case, restrictions, **options)(arrays)
        pytest.skip(f"{self.implementation} refuses: {', '.join(missing)}")

    @parametrize_cases(*CASES)
    def test_float32_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        self.require(case)
        runs = [self.run(case, case.arrays(seed), case.cotangent(seed)) for seed in SEEDS]
        assert_as_accurate_as_plain(stack(runs), *float32_yardsticks(case))

    @parametrize_cases(FULL, PACKED, SUFFIX)
    def test_bfloat16_output_and_every_gradient_are_as_accurate_as_plain(self, case):
        self.require(case, "bfloat16")
        runs = [self.run(case, *bfloat16_draw(case, seed)) for seed in SEEDS]
        assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(runs))
        assert_as_accurate_as_plain(stack(runs), *bfloat16_yardsticks(case))

    def test_identity_kernels_equal_dot_product_attention(self):
        case = self.identity_case
        self.require(case)
        inputs, kernels = identity_draw(case)
        cotangent = case.cotangent()

        def dot_product_attention(arrays):
            return jax.nn.dot_product_attention(**arrays, is_causal=True)

        run = jax.jit(functools.partial(out_and_gradients, dot_product_attention))
        plain = run(inputs, cotangent)
        exact = float64_reference(case, inputs, cotangent)
        got = self.run(case, inputs | kernels, cotangent)
        assert_as_accurate_as_plain({name: got[name] for name in exact}, plain, exact)

    @parametrize_cases(*CAUSAL_CASES)
    def test_future_tokens_get_zero_gradient(self, case):
        self.require(case)
        for last_key in (0, case.num_keys // 2, case.num_keys - 2):
            row = int(np.clip(last_key - case.query_offset, 0, case.query_length - 1))
            rows = np.arange(case.query_length) == row
            gradients = self.run_rows(case, rows)
            future_keys = np.arange(case.num_keys) > row + case.query_offset
            assert not gradients["query"][:, row + 1 :].any()
            assert not gradients["key"][:, future_keys].any()
            reached = gradients["value"].any(axis=(2, 3))
            np.testing.assert_array_equal(reached, case.allowed()[:, :, row].any(axis=1))
        assert gradients["query"][:, row].any()
        assert gradients["key"][:, ~future_keys].any()

    @parametrize_cases(*SEGMENT_CASES)
    def test_other_documents_get_zero_gradient(self, case):
        self.require(case)
        full = case.full_restrictions()
        ids, key_ids = full["segment_ids"], full["key_segment_ids"]
        assert len(np.unique(ids)) > 1
        for document in np.unique(ids):
            rows = ids == document
            gradients = self.run_rows(case, rows)
            assert not gradients["query"][~rows].any()
            assert not gradients["key"][key_ids != document].any()
            reached = gradients["value"].any(axis=(2, 3))
            allowed = case.allowed() & rows[:, None, :, None]
            np.testing.assert_array_equal(reached, allowed.any(axis=(1, 2)))
            assert gradients["query"][rows].any()
            assert gradients["key"][key_ids == document].any()

    @parametrize_cases(*BLANK_ROW_CASES)
    def test_rows_without_allowed_key_give_zeros_and_finite_gradients(self, case):
        self.require(case)
        blank = ~case.allowed().any(axis=(1, 3))
        results = self.run(case, case.arrays(), case.cotangent())
        assert not results["out"][blank].any()
        assert results["out"][~blank].all()
        assert not results["query"][blank].any()
        assert all(np.isfinite(x).all() for x in results.values())

    @parametrize_cases(FULL, PACKED)
    def test_same_answer_twice_bit_for_bit(self, case):
        self.require(case)
        first = self.run(case, case.arrays(), case.cotangent())
        second = self.run(case, case.arrays(), case.cotangent())
        jax.tree.map(np.testing.assert_array_equal, first, second)

    def test_output_has_the_dtype_of_value(self):
        self.require(self.small_case, "bfloat16")
        arrays, _ = jax.tree.map(jnp.asarray, bfloat16_draw(self.small_case, 0))
        assert jax.eval_shape(self.call(self.small_case, {}), arrays).dtype == jnp.bfloat16
        arrays["value"] = arrays["value"].astype(jnp.float32)
        assert jax.eval_shape(self.call(self.small_case, {}), arrays).dtype == jnp.float32

    def test_weights_are_those_of_the_output(self):
        arrays = SQUARE.arrays()
        del arrays["value"]
        if not self.supports_weights:
            with pytest.raises(NotImplementedError):
                self.attend_weights(**jax.tree.map(jnp.asarray, arrays))
            pytest.skip(f"{self.implementation} refuses: weights")
        weights = jax.jit(lambda arrays: self.attend_weights(**arrays))(arrays)
        assert weights.dtype == jnp.float32
        as_output = np.asarray(weights).transpose(0, 2, 1, 3)
        assert_as_accurate_as_plain({"out": as_output}, *one_hot_yardsticks(SQUARE))

    def test_agrees_with_itself_without_jit(self):
        plain, exact = float32_yardsticks(self.small_case)
        attend = self.call(self.small_case, {})
        outs = [attend(jax.tree.map(jnp.asarray, self.small_case.arrays(seed))) for seed in SEEDS]
        assert_as_accurate_as_plain({"out": np.stack(outs)}, plain, exact)

    def test_works_under_vmap(self):
        run = jax.vmap(functools.partial(out_and_gradients, self.call(self.small_case, {})))
        assert_as_accurate_as_plain(
            jax.jit(run)(*stacked_draws(self.small_case)), *float32_yardsticks(self.small_case)
        )

    def test_works_under_scan_and_remat(self):
        attend = jax.checkpoint(self.call(self.small_case, {}))

        def step(count, draw):
            return count + 1, out_and_gradients(attend, *draw)

        _, results = jax.jit(lambda draws: lax.scan(step, 0, draws))(stacked_draws(self.small_case))
        assert_as_accurate_as_plain(results, *float32_yardsticks(self.small_case))

    def test_works_under_shard_map(self):
        """On a mesh of one device, which follows the same rules as one of many."""
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        spec = jax.sharding.PartitionSpec("data")
        shared = jax.sharding.PartitionSpec()
        draws = [(self.small_case.arrays(seed), self.small_case.cotangent(seed)) for seed in SEEDS]
        specs = {name: shared if name.endswith("kernel") else spec for name in draws[0][0]}
        attend = jax.shard_map(
            self.call(self.small_case, {}),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=spec,
            check_vma=self.supports_varying_axes,
        )
        run = jax.jit(functools.partial(out_and_gradients, attend))
        results = stack([run(*draw) for draw in draws])
        assert_as_accurate_as_plain(results, *float32_yardsticks(self.small_case))

    def test_dropout_is_a_function_of_its_key(self):
        first, again, other = (self.dropped_weights(seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_dropout_zeroes_or_rescales_each_weight(self):
        plain, exact = one_hot_yardsticks(SQUARE)
        dropped = self.dropped_weights(0)
        kept = dropped != 0
        rescaled = np.where(kept, dropped * (1 - DROPOUT_RATE), exact["out"])
        assert_as_accurate_as_plain({"out": np.float32(rescaled)}, plain, exact)

        count = (exact["out"] != 0).sum()
        spread = (count * DROPOUT_RATE * (1 - DROPOUT_RATE)) ** 0.5
        assert abs(kept.sum() - (1 - DROPOUT_RATE) * count) < 5 * spread

    def test_dropout_keeps_the_expected_weights(self):
        num_keys = 100
        mean = sum(np.float64(self.dropped_weights(seed)) for seed in range(num_keys)) / num_keys
        weights = one_hot_yardsticks(SQUARE)[1]["out"]
        spread = np.abs(weights) * (DROPOUT_RATE / (1 - DROPOUT_RATE) / num_keys) ** 0.5
        assert (np.abs(mean - weights) <= 5 * spread).all()

    def test_dropout_gradients_use_the_dropped_weights(self):
        arrays = one_hot_values(SQUARE)
        runs = []
        for seed in SEEDS:
            cotangent, dropped = SQUARE.cotangent(seed), self.dropped_weights(seed)
            # One-hot values make the output the weights, entry by entry, so dropping
            # weights is scaling the cotangent; only values see the weights themselves.
            scaled = np.where(dropped != 0, cotangent / np.float32(1 - DROPOUT_RATE), 0)
            plain, exact = yardsticks(SQUARE, arrays, scaled)
            plain["value"] = value_gradient(dropped, cotangent)
            exact["value"] = value_gradient(np.float64(dropped), np.float64(cotangent))
            got = self.run(SQUARE, arrays, cotangent, *dropout_options(seed).values())
            runs.append((got, plain, exact | {"out": got["out"]}))
        assert_as_accurate_as_plain(*stack(runs))

    def dropped_weights(self, seed: int) -> np.ndarray:
        """Attention weights after dropout, [B, T, N, S]."""
        self.require(SQUARE, "dropout", **dropout_options(seed))
        arrays, cotangent = one_hot_values(SQUARE), SQUARE.cotangent()
        return self.run(SQUARE, arrays, cotangent, *dropout_options(seed).values())["out"]

    def run_rows(self, case: Case, rows: np.ndarray) -> Arrays:
        """Gradients of the outputs of some rows, [T] or [B, T], alone."""
        cotangent = np.where(rows[..., None, None], case.cotangent(), np.float32(0))
        return self.run(case, case.arrays(), cotangent)


@functools.cache
def _compiled(suite: type[AttentionSuite], case: Case, dropout_rate: float) -> Callable:
    @jax.jit
    def run(arrays, cotangent, restrictions, dropout_key):
        options = {"dropout_rate": dropout_rate, "dropout_key": dropout_key}
        return out_and_gradients(suite().call(case, restrictions, **options), arrays, cotangent)

    return run


DROPOUT_RATE = 0.25


def dropout_options(seed: int) -> dict[str, Any]:
    return {"dropout_rate": DROPOUT_RATE, "dropout_key": jax.random.key(seed)}
