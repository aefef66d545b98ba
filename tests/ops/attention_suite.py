"""What every implementation of `multi_token_attention` must do.

A test class subclasses `AttentionSuite`, names its implementation and sets to False
the `supports_*` flags of what it lacks; there the suite checks that the call is
refused with NotImplementedError before it skips.

Accuracy has one rule: an error may be at most twice that of the plain path in the
same dtype. Float32 is judged by the reference in float64, with the float32 reference
as the plain path; bfloat16 by the float32 reference, with `plain_bfloat16`.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mta_jax.ops.head_mixing import head_mixing
from mta_jax.ops.key_query_convolution import key_query_convolution
from mta_jax.ops.masks import MASK_VALUE, attention_mask
from mta_jax.ops.multi_token_attention import (
    multi_token_attention,
    multi_token_attention_weights,
)

# Errors are taken over several draws together: for a kernel of four elements one
# draw is a roll of the dice.
SEEDS = range(5)

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Shapes and options of one call, from which its arrays are drawn.

    `restriction` names the mask or the packed documents:

    - "padding": batch element 0 hides its first 3 keys, so that the first rows of a
      causal call see nothing; the other elements hide their last 2.
    - "per_head": each head hides keys at random, but none from its own position.
    - "packed": documents side by side, with other borders in each batch element.
    - "interleaved": documents take turns at random.
    """

    batch: int = 2
    query_length: int
    key_length: int | None = None
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_size: int = 8
    value_size: int | None = None
    pre_kq: tuple[int, int] | None = None
    pre_head: int | None = None
    post_kq: tuple[int, int] | None = None
    post_head: int | None = None
    key_padding: Literal["both", "left", "right"] = "both"
    is_causal: bool = True
    query_offset: int = 0
    restriction: Literal["padding", "per_head", "packed", "interleaved"] | None = None

    def __str__(self) -> str:
        parts = [f"B{self.batch}-T{self.query_length}"]
        if self.key_length:
            parts.append(f"S{self.key_length}")
        parts.append(f"N{self.num_heads}")
        if self.num_kv_heads:
            parts.append(f"K{self.num_kv_heads}")
        parts.append(f"H{self.head_size}")
        if self.value_size:
            parts.append(f"Hv{self.value_size}")
        for side in ("pre", "post"):
            kernel_size, group_size = getattr(self, f"{side}_kq"), getattr(self, f"{side}_head")
            if kernel_size or group_size:
                taps = "x".join(str(size) for size in kernel_size or ())
                parts.append(side + taps + (f"h{group_size}" if group_size else ""))
        if self.key_padding != "both":
            parts.append(self.key_padding)
        if not self.is_causal:
            parts.append("bidirectional")
        if self.query_offset:
            parts.append(f"offset{self.query_offset}")
        if self.restriction:
            parts.append(self.restriction)
        return "-".join(parts)

    @property
    def num_keys(self) -> int:
        return self.key_length or self.query_length

    @property
    def features(self) -> set[str]:
        """The `supports_*` flags that this case needs."""
        needed = {
            "bidirectional": not self.is_causal,
            "no_convolution": self.pre_kq is None,
            "post_convolution": self.post_kq is not None,
            "pre_head_mixing": self.pre_head is not None,
            "unequal_lengths": self.key_length is not None,
            "value_size": self.value_size is not None,
            "one_sided_padding": self.key_padding != "both",
            "mask": self.restriction in ("padding", "per_head"),
            "segments": self.restriction in ("packed", "interleaved"),
        }
        return {name for name, is_needed in needed.items() if is_needed}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are no arrays."""
        return {
            "is_causal": self.is_causal,
            "query_offset": self.query_offset,
            "key_padding": self.key_padding,
        }

    def arrays(self, seed: int = 0) -> Arrays:
        """The arguments with gradients, in float32, scaled so that logits are near 1."""
        rng = self._rng(seed)

        def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
            return (scale * rng.normal(size=shape)).astype(np.float32)

        num_kv_heads = self.num_kv_heads or self.num_heads
        value_size = self.value_size or self.head_size
        arrays = {
            "query": normal(self.batch, self.query_length, self.num_heads, self.head_size),
            "key": normal(self.batch, self.num_keys, num_kv_heads, self.head_size),
            "value": normal(self.batch, self.num_keys, num_kv_heads, value_size),
        }
        for side in ("pre", "post"):
            if size := getattr(self, f"{side}_kq"):
                scale = (size[0] * size[1]) ** -0.5
                arrays[f"{side}_kq_kernel"] = normal(self.num_heads, *size, scale=scale)
            if size := getattr(self, f"{side}_head"):
                groups = self.num_heads // size
                arrays[f"{side}_head_kernel"] = normal(groups, size, size, scale=size**-0.5)
        return arrays

    def cotangent(self, seed: int = 0) -> np.ndarray:
        value_size = self.value_size or self.head_size
        shape = (self.batch, self.query_length, self.num_heads, value_size)
        return self._rng(seed, "cotangent").normal(size=shape).astype(np.float32)

    def restrictions(self) -> Arrays:
        """The mask and segment arguments."""
        rng = self._rng(0, "restrictions")
        key_positions = np.arange(self.num_keys)
        positions = np.arange(self.query_length) + self.query_offset
        if self.restriction == "padding":
            mask = np.ones((self.batch, 1, 1, self.num_keys), bool)
            mask[0, ..., :3] = False
            mask[1:, ..., -2:] = False
            return {"mask": mask}
        if self.restriction == "per_head":
            shape = (1, self.num_heads, self.query_length, self.num_keys)
            return {"mask": (rng.random(shape) < 0.6) | (positions[:, None] == key_positions)}
        if self.restriction == "packed":
            borders = rng.integers(1, self.num_keys, size=(self.batch, 3, 1))
            key_ids = (key_positions >= borders).sum(axis=1)
        elif self.restriction == "interleaved":
            key_ids = rng.integers(0, 3, size=(self.batch, self.num_keys))
        else:
            return {}
        key_ids = key_ids.astype(np.int32)
        if self.key_length is None:
            return {"segment_ids": key_ids}
        ids = key_ids[:, np.clip(positions, 0, self.num_keys - 1)]
        return {"segment_ids": ids, "key_segment_ids": key_ids}

    def full_restrictions(self) -> Arrays:
        """Causality and restrictions as one full mask and full segment ids.

        All cases of one shape pass the same arguments this way and share a compiled
        reference, and causality is said a second time, in other words.
        """
        given = self.restrictions()
        mask = np.ones((self.batch, self.num_heads, self.query_length, self.num_keys), bool)
        if self.is_causal:
            last_key = np.arange(self.query_length) + self.query_offset
            mask &= np.arange(self.num_keys) <= last_key[:, None]
        mask &= given.get("mask", True)
        ids = given.get("segment_ids", np.zeros((self.batch, self.query_length), np.int32))
        same_length = self.key_length is None
        key_ids = ids if same_length else np.zeros((self.batch, self.num_keys), np.int32)
        key_ids = given.get("key_segment_ids", key_ids)
        return {"mask": mask, "segment_ids": ids, "key_segment_ids": key_ids}

    def allowed(self) -> np.ndarray:
        """True where a query may attend, [B, N, T, S]."""
        full = self.full_restrictions()
        same_segment = full["segment_ids"][:, :, None] == full["key_segment_ids"][:, None, :]
        return full["mask"] & same_segment[:, None]

    def _rng(self, seed: int, purpose: str = "arrays") -> np.random.Generator:
        return np.random.default_rng([seed, zlib.crc32(f"{self} {purpose}".encode())])


FULL = Case(
    query_length=63,
    num_kv_heads=2,
    head_size=32,
    pre_kq=(2, 9),
    pre_head=4,
    post_kq=(3, 5),
    post_head=2,
)
PACKED = dataclasses.replace(FULL, restriction="packed")
# As many keys as features: with one-hot values the output is the attention weights.
SQUARE = Case(
    query_length=16,
    num_kv_heads=2,
    head_size=16,
    pre_kq=(2, 3),
    pre_head=4,
    post_kq=(3, 3),
    post_head=2,
)
SUFFIX = Case(
    query_length=7,
    key_length=63,
    num_kv_heads=1,
    pre_kq=(3, 3),
    pre_head=2,
    post_kq=(2, 3),
    post_head=2,
    query_offset=56,
)
CROSS = Case(
    query_length=63,
    key_length=7,
    value_size=5,
    pre_kq=(2, 4),
    post_kq=(2, 2),
    key_padding="left",
    is_causal=False,
)
CASES = (
    FULL,
    PACKED,
    dataclasses.replace(FULL, restriction="interleaved"),
    dataclasses.replace(FULL, restriction="padding"),
    dataclasses.replace(FULL, restriction="per_head"),
    dataclasses.replace(FULL, is_causal=False),
    SQUARE,
    SUFFIX,
    dataclasses.replace(SUFFIX, restriction="packed"),
    CROSS,
    dataclasses.replace(CROSS, is_causal=True, query_offset=-40),
    # Kernels larger than the map.
    Case(batch=1, query_length=7, num_heads=2, pre_kq=(6, 11), pre_head=2),
    Case(query_length=1, num_heads=2, pre_kq=(1, 1), pre_head=1, post_kq=(2, 3), post_head=2),
    Case(query_length=31, num_heads=2, pre_kq=(1, 2), post_kq=(2, 2), key_padding="right"),
    Case(query_length=111, num_heads=2, head_size=16, restriction="padding"),
)
CAUSAL_CASES = [case for case in CASES if case.is_causal and case.query_length > 1]
SEGMENT_CASES = [case for case in CASES if "segments" in case.features]
BLANK_ROW_CASES = [case for case in CASES if not case.allowed().any(axis=(1, 3)).all()]


_LONG = 1000


def parametrize_cases(*cases: Case) -> pytest.MarkDecorator:
    """A test for each; those that take a minute only where `slow` ones are asked for."""
    slow = pytest.mark.slow
    parameters = [
        pytest.param(case, id=str(case), marks=slow if case.query_length >= _LONG else ())
        for case in cases
    ]
    return pytest.mark.parametrize("case", parameters)


class AttentionSuite:
    """Tests of one implementation against the reference."""

    implementation: str
    small_case = SQUARE
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
        self.require(FULL)
        inputs, kernels = identity_draw(FULL)
        cotangent = FULL.cotangent()

        def dot_product_attention(arrays):
            return jax.nn.dot_product_attention(**arrays, is_causal=True)

        run = jax.jit(functools.partial(out_and_gradients, dot_product_attention))
        plain = run(inputs, cotangent)
        exact = float64_reference(FULL, inputs, cotangent)
        got = self.run(FULL, inputs | kernels, cotangent)
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


def out_and_gradients(attend: Callable[[Arrays], Any], arrays: Arrays, cotangent: Any) -> Arrays:
    out, pullback = jax.vjp(attend, arrays)
    (gradients,) = pullback(cotangent)
    return {"out": out, **gradients}


def assert_as_accurate_as_plain(got: Arrays, plain: Arrays, exact: Arrays) -> None:
    """Each root mean square error in `got` is at most twice that in `plain`.

    Nothing is asked to be closer than one unit in the last place.
    """

    def rms(x: Any) -> float:
        return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))

    for name, array in got.items():
        plain_error = rms(np.float64(plain[name]) - exact[name])
        unit = float(jnp.finfo(array.dtype).eps) * (rms(exact[name]) or 1.0)
        error = rms(np.float64(array) - exact[name])
        assert error <= max(2 * plain_error, unit), (
            f"{name}: error {error:.3g}, of the plain path {plain_error:.3g}"
        )


def reference(**arguments: Any) -> Any:
    return multi_token_attention(**arguments, is_causal=False, implementation="reference")


def plain_bfloat16(
    query,
    key,
    value,
    *,
    pre_kq_kernel=None,
    pre_head_kernel=None,
    post_kq_kernel=None,
    post_head_kernel=None,
    mask,
    segment_ids,
    key_segment_ids,
    key_padding,
):
    """The formulas with every intermediate, and so every cotangent, rounded to bfloat16.

    Arrays are float32 that hold bfloat16 values: XLA may skip the rounding between
    bfloat16 operations, but never `lax.reduce_precision`.
    """
    rounded = functools.partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=7)
    convolve = functools.partial(
        key_query_convolution, key_padding=key_padding, segment_ids=segment_ids
    )
    allowed = attention_mask(
        query.shape[1],
        key.shape[1],
        is_causal=False,
        mask=mask,
        segment_ids=segment_ids,
        key_segment_ids=key_segment_ids,
    )
    groups = query.shape[2] // key.shape[2]
    query = rounded(query)
    key, value = (jnp.repeat(rounded(x), groups, axis=2) for x in (key, value))

    x = rounded(jnp.einsum("BTNH,BSNH->BNTS", query, key))
    x = rounded(x * query.shape[-1] ** -0.5)
    x = jnp.where(allowed, x, 0)
    if pre_kq_kernel is not None:
        x = rounded(convolve(x, rounded(pre_kq_kernel)))
    if pre_head_kernel is not None:
        x = rounded(head_mixing(x, rounded(pre_head_kernel)))
    x = jnp.where(allowed, x, MASK_VALUE)
    x = rounded(jnp.exp(rounded(x - lax.stop_gradient(x.max(axis=-1, keepdims=True)))))
    x = rounded(x / rounded(x.sum(axis=-1, keepdims=True)))
    x = jnp.where(allowed, x, 0)
    if post_kq_kernel is not None:
        x = jnp.where(allowed, rounded(convolve(x, rounded(post_kq_kernel))), 0)
    if post_head_kernel is not None:
        x = rounded(head_mixing(x, rounded(post_head_kernel)))
    return rounded(jnp.einsum("BNTS,BSNH->BTNH", x, value))


@functools.partial(jax.jit, static_argnames=("attend", "key_padding"))
def _run_yardstick(attend, arrays, cotangent, restrictions, key_padding):
    def call(arrays):
        return attend(**arrays, **restrictions, key_padding=key_padding)

    return out_and_gradients(call, arrays, cotangent)


def run_yardstick(attend: Callable, case: Case, arrays: Arrays, cotangent: np.ndarray) -> Arrays:
    restrictions = case.full_restrictions()
    return jax.device_get(_run_yardstick(attend, arrays, cotangent, restrictions, case.key_padding))


def float64_reference(case: Case, arrays: Arrays, cotangent: np.ndarray) -> Arrays:
    with jax.enable_x64(True):
        arrays = jax.tree.map(np.float64, arrays)
        return run_yardstick(reference, case, arrays, np.float64(cotangent))


def yardsticks(case: Case, arrays: Arrays, cotangent: np.ndarray) -> tuple[Arrays, Arrays]:
    """Plain and exact results for float32."""
    plain = run_yardstick(reference, case, arrays, cotangent)
    return plain, float64_reference(case, arrays, cotangent)


@functools.cache
def float32_yardsticks(case: Case) -> tuple[Arrays, Arrays]:
    """Plain and exact results of all draws."""
    runs = [yardsticks(case, case.arrays(seed), case.cotangent(seed)) for seed in SEEDS]
    return stack([plain for plain, _ in runs]), stack([exact for _, exact in runs])


@functools.cache
def bfloat16_yardsticks(case: Case) -> tuple[Arrays, Arrays]:
    """Plain and, to bfloat16, exact results of all draws."""
    draws = [
        jax.tree.map(lambda x: x.astype(np.float32), bfloat16_draw(case, seed)) for seed in SEEDS
    ]
    plain = stack([run_yardstick(plain_bfloat16, case, *draw) for draw in draws])
    return plain, stack([run_yardstick(reference, case, *draw) for draw in draws])


@functools.cache
def one_hot_yardsticks(case: Case) -> tuple[Arrays, Arrays]:
    return yardsticks(case, one_hot_values(case), case.cotangent())


def bfloat16_draw(case: Case, seed: int) -> tuple[Arrays, np.ndarray]:
    draw = (case.arrays(seed), case.cotangent(seed))
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw)


def stacked_draws(case: Case) -> tuple[Arrays, np.ndarray]:
    return stack([(case.arrays(seed), case.cotangent(seed)) for seed in SEEDS])


def stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def one_hot_values(case: Case) -> Arrays:
    arrays = case.arrays()
    one_hot = np.eye(case.num_keys, dtype=np.float32)[:, None]
    return arrays | {"value": np.broadcast_to(one_hot, arrays["value"].shape)}


def value_gradient(weights: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """[B, T, N, S] weights and the cotangent of the output to the gradient of SQUARE's values."""
    batch, length, _, num_keys = weights.shape
    weights, cotangent = (
        x.reshape(batch, length, SQUARE.num_kv_heads, -1, num_keys) for x in (weights, cotangent)
    )
    return np.einsum("BTKGS,BTKGH->BSKH", weights, cotangent)


def identity_draw(case: Case, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Random inputs, and kernels that leave the map as it is."""
    arrays = case.arrays(seed)
    inputs = {name: arrays.pop(name) for name in ("query", "key", "value")}
    for name, kernel in arrays.items():
        kernel[:] = 0
        if "head" in name:
            kernel[:] = np.eye(kernel.shape[1])
        else:
            size = kernel.shape[2]
            kernel[:, -1, {"both": size // 2, "left": size - 1, "right": 0}[case.key_padding]] = 1
    return inputs, arrays


DROPOUT_RATE = 0.25


def dropout_options(seed: int) -> dict[str, Any]:
    return {"dropout_rate": DROPOUT_RATE, "dropout_key": jax.random.key(seed)}
