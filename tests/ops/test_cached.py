import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.differential_attention import (
    cached_differential_attention,
    differential_attention,
)
from mta_jax.ops.multi_token_attention import cached as cached_module
from mta_jax.ops.multi_token_attention import (
    cached_multi_token_attention,
    multi_token_attention,
    num_past_queries,
)

LENGTH, CAPACITY = 21, 24
NUM_HEADS = 4


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Which mixing steps there are, and where kernels reach."""

    pre_kq: tuple[int, int] | None = None
    pre_head: int | None = None
    post_kq: tuple[int, int] | None = None
    post_head: int | None = None
    key_padding: str = "both"
    num_kv_heads: int = NUM_HEADS

    def draw(self, rng, dtype):
        kernels = {}
        for side in ("pre", "post"):
            size, group = getattr(self, f"{side}_kq"), getattr(self, f"{side}_head")
            if size is not None:
                kernels[f"{side}_kq_kernel"] = rng.normal(size=(NUM_HEADS, *size))
            if group is not None:
                shape = (NUM_HEADS // group, group, group)
                kernels[f"{side}_head_kernel"] = rng.normal(size=shape)
        return {name: jnp.asarray(kernel, dtype) for name, kernel in kernels.items()}


CASES = {
    "plain": Kernels(),
    "grouped": Kernels(num_kv_heads=2),
    "pre_kq": Kernels(pre_kq=(3, 5)),
    "post_kq": Kernels(post_kq=(4, 3)),
    "heads": Kernels(pre_head=4, post_head=2),
    "all": Kernels(pre_kq=(3, 5), pre_head=2, post_kq=(2, 7), post_head=4, num_kv_heads=1),
    "left": Kernels(pre_kq=(2, 4), post_kq=(3, 2), key_padding="left"),
    "right": Kernels(pre_kq=(2, 4), post_kq=(3, 2), key_padding="right"),
}


def draw(case: Kernels, dtype=np.float64):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, LENGTH, NUM_HEADS, 8))
    key, value = rng.normal(size=(2, 2, LENGTH, case.num_kv_heads, 8))
    query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    return query, key, value, case.draw(rng, np.float64 if dtype == np.float64 else np.float32)


def columns(x, garbage=1e3):
    """Keys as a cache has them; behind the last stands what nothing may read."""
    padding = ((0, 0), (0, 0), (0, 0), (0, CAPACITY - LENGTH))
    return jnp.pad(x.transpose(0, 2, 3, 1), padding, constant_values=garbage)


def cached_rows(query, key, value, kernels, start, count, **options):
    """Rows `start` to `start + count - 1`, of a cache that has all keys."""
    reach = num_past_queries(kernels.get("pre_kq_kernel"), kernels.get("post_kq_kernel"))
    past = query[:, max(start - reach, 0) : start]
    # What stands before the first position may be anything.
    past = jnp.pad(past, ((0, 0), (reach - past.shape[1], 0), (0, 0), (0, 0)), constant_values=9.0)
    return cached_multi_token_attention(
        query[:, start : start + count],
        past,
        columns(key),
        columns(value).swapaxes(2, 3),
        starts=jnp.full((2,), start),
        **kernels,
        **options,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_new_rows_are_those_of_the_whole_sequence(case):
    with jax.enable_x64(True):
        query, key, value, kernels = draw(case)
        padding = {"key_padding": case.key_padding}
        expected = multi_token_attention(
            query, key, value, **kernels, **padding, implementation="reference"
        )
        for start, count in ((0, 4), (1, 1), (4, 9), (13, 1), (20, 1)):
            out = cached_rows(query, key, value, kernels, start, count, **padding)
            np.testing.assert_allclose(
                out, expected[:, start : start + count], rtol=0, atol=1e-11, err_msg=str(start)
            )


def test_many_rows_are_taken_block_by_block(monkeypatch):
    monkeypatch.setattr(cached_module, "_BLOCK_ROWS", 4)
    with jax.enable_x64(True):
        query, key, value, kernels = draw(CASES["all"])
        expected = multi_token_attention(query, key, value, **kernels, implementation="reference")
        out = cached_rows(query, key, value, kernels, 2, 18)
    np.testing.assert_allclose(out, expected[:, 2:20], rtol=0, atol=1e-11)


def test_sequences_stand_at_different_places():
    with jax.enable_x64(True):
        query, key, value, kernels = draw(CASES["all"])
        expected = multi_token_attention(query, key, value, **kernels, implementation="reference")
        starts = np.array([5, 16])
        rows = starts[:, None] + np.arange(-3, 1)
        taken = jnp.take_along_axis(query, rows[:, :, None, None], axis=1)
        out = cached_multi_token_attention(
            taken[:, 3:],
            taken[:, :3],
            columns(key),
            columns(value).swapaxes(2, 3),
            starts=jnp.asarray(starts),
            **kernels,
        )
    for sequence, start in enumerate(starts):
        np.testing.assert_allclose(out[sequence, 0], expected[sequence, start], rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", ["plain", "all"])
def test_a_window_hides_what_is_older(case):
    window = 6
    rows = np.arange(LENGTH)
    mask = (rows[None, :] > rows[:, None] - window)[None, None]
    with jax.enable_x64(True):
        query, key, value, kernels = draw(CASES[case])
        expected = multi_token_attention(
            query, key, value, **kernels, mask=jnp.asarray(mask), implementation="reference"
        )
        out = cached_rows(query, key, value, kernels, 12, 3, window=window)
    np.testing.assert_allclose(out, expected[:, 12:15], rtol=0, atol=1e-11)


def test_bfloat16_is_as_accurate_as_the_whole_sequence():
    query, key, value, kernels = draw(CASES["all"], jnp.bfloat16)
    exact = multi_token_attention(
        *(x.astype(jnp.float32) for x in (query, key, value)), **kernels, implementation="reference"
    )
    whole = multi_token_attention(query, key, value, **kernels, implementation="xla")
    rows = [cached_rows(query, key, value, kernels, start, 1) for start in range(LENGTH)]
    errors = [
        float(jnp.linalg.norm((out.astype(jnp.float32) - exact).ravel()))
        for out in (jnp.concatenate(rows, axis=1), whole)
    ]
    assert rows[0].dtype == jnp.bfloat16
    assert 0 < errors[0] <= 2 * errors[1]


def test_past_queries_of_another_number_are_refused():
    query, key, value, kernels = draw(CASES["pre_kq"], np.float32)
    with pytest.raises(ValueError, match="expected 2 queries, as many as the kernels reach back"):
        cached_multi_token_attention(
            query[:, 3:4],
            query[:, 2:3],
            columns(key),
            columns(value).swapaxes(2, 3),
            starts=jnp.array([3, 3]),
            **kernels,
        )


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_new_rows_of_differential_attention_are_those_of_the_whole(num_kv_heads):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        query = jnp.asarray(rng.normal(size=(2, LENGTH, 4, 8)))
        key = jnp.asarray(rng.normal(size=(2, LENGTH, num_kv_heads, 8)))
        value = jnp.asarray(rng.normal(size=(2, LENGTH, num_kv_heads // 2, 16)))
        expected = differential_attention(query, key, value, 0.3, implementation="reference")
        for start, count in ((0, 1), (3, 5), (20, 1)):
            out = cached_differential_attention(
                query[:, start : start + count],
                columns(key[:, :, 0::2]),
                columns(key[:, :, 1::2]),
                columns(value).swapaxes(2, 3),
                0.3,
                starts=jnp.full((2,), start),
            )
            np.testing.assert_allclose(out, expected[:, start : start + count], rtol=0, atol=1e-11)
