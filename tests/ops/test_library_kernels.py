"""Ordinary attention by the kernels of others: what is passed to them, and what is not."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.ops.multi_token_attention import cudnn as cudnn_module
from mta_jax.ops.multi_token_attention import multi_token_attention
from mta_jax.ops.target import targeting
from tests.ops.attention_cases import SEEDS, Case
from tests.ops.yardsticks import (
    assert_as_accurate_as_plain,
    bfloat16_draw,
    bfloat16_yardsticks,
    out_and_gradients,
    stack,
)

GPU = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")

PLAIN = Case(batch=1, query_length=63, num_heads=4, num_kv_heads=2, head_size=16)
PACKED = dataclasses.replace(PLAIN, batch=2, query_length=257, restriction="packed")


def accuracy(case, implementation):
    def attend(arrays):
        restrictions = jax.tree.map(jnp.asarray, case.restrictions())
        return multi_token_attention(**arrays, **restrictions, implementation=implementation)

    run = jax.jit(functools.partial(out_and_gradients, attend))
    runs = [run(*bfloat16_draw(case, seed)) for seed in SEEDS]
    assert_as_accurate_as_plain(stack(runs), *bfloat16_yardsticks(case))


@pytest.mark.parametrize(
    "case",
    [
        PLAIN,
        dataclasses.replace(PLAIN, query_length=1),
        dataclasses.replace(PLAIN, query_length=300, num_heads=1, num_kv_heads=1, value_size=24),
        PACKED,
    ],
    ids=str,
)
def test_splash_is_as_accurate_as_plain(case):
    accuracy(case, "splash")


@pytest.mark.parametrize("documents", [False, True])
def test_splash_gives_future_tokens_and_other_documents_zero_gradient(documents):
    case = dataclasses.replace(PACKED, batch=1)
    arrays, _ = jax.tree.map(jnp.asarray, bfloat16_draw(case, 0))
    segment_ids = jnp.arange(257)[None] // 150 if documents else None

    def one_row(arrays, row):
        out = multi_token_attention(**arrays, segment_ids=segment_ids, implementation="splash")
        return jnp.sum(out[0, row].astype(jnp.float32))

    row = 200
    gradients = jax.jit(jax.grad(one_row), static_argnums=1)(arrays, row)
    first = 150 if documents else 0
    for name in ("key", "value"):
        seen = np.any(np.asarray(gradients[name], np.float32) != 0, axis=(0, 2, 3))
        np.testing.assert_array_equal(np.flatnonzero(seen), np.arange(first, row + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": jnp.zeros((1, 63, 2, 16), jnp.float32)}, "dtype .*float32"),
        ({"pre_head_kernel": jnp.zeros((1, 4, 4))}, "pre_head_kernel is not supported"),
        ({"mask": jnp.ones((1, 1, 63, 63), bool)}, "mask is not supported"),
        ({"is_causal": False}, "is_causal=False"),
        ({"query_offset": 3}, "query_offset 3: only 0"),
        ({"out_dtype": jnp.float32}, "out_dtype float32: this kernel writes bfloat16"),
        ({"dropout_rate": 0.1, "dropout_key": 0}, "dropout_key is not supported"),
    ],
)
@pytest.mark.parametrize("implementation", ["splash", "cudnn"])
def test_what_is_not_supported_is_refused_by_name(implementation, changes, message):
    if "dropout_key" in changes:
        changes = changes | {"dropout_key": jax.random.key(0)}
    arrays, _ = jax.tree.map(jnp.asarray, bfloat16_draw(PLAIN, 0))
    with pytest.raises(NotImplementedError, match=message), targeting(GPU):
        multi_token_attention(**(arrays | changes), implementation=implementation)


@pytest.mark.parametrize("head_size", [12, 136])
def test_cudnn_refuses_head_sizes_by_name(head_size):
    arrays, _ = bfloat16_draw(dataclasses.replace(PLAIN, head_size=head_size), 0)
    arrays = jax.tree.map(jnp.asarray, arrays)
    with pytest.raises(NotImplementedError, match=f"head size {head_size}"), targeting(GPU):
        multi_token_attention(**arrays, implementation="cudnn")


def test_cudnn_is_not_asked_of_gpus_that_are_too_old():
    arrays, _ = jax.tree.map(jnp.asarray, bfloat16_draw(PLAIN, 0))
    turing = types.SimpleNamespace(platform="gpu", device_kind="T4", compute_capability="7.5")
    with targeting(turing), pytest.raises(NotImplementedError, match=r"compute capability 7.5"):
        multi_token_attention(**arrays, implementation="cudnn")


def test_without_cudnn_the_reason_is_named():
    arrays, _ = jax.tree.map(jnp.asarray, bfloat16_draw(PLAIN, 0))
    with pytest.raises(NotImplementedError, match="there is no cuDNN on a cpu"):
        multi_token_attention(**arrays, implementation="cudnn")
    # On a machine without a GPU, JAX finds none.
    with targeting(GPU), pytest.raises(NotImplementedError, match="cuDNN"):
        multi_token_attention(**arrays, implementation="cudnn")


def test_cudnn_is_asked_for_the_same_attention(monkeypatch):
    asked = []

    def in_xla(*arrays, implementation, **options):
        asked.append(implementation)
        return jax.nn.dot_product_attention(*arrays, implementation="xla", **options)

    monkeypatch.setattr(cudnn_module, "dot_product_attention", in_xla)
    with targeting(GPU):
        accuracy(PLAIN, "cudnn")
    assert set(asked) == {"cudnn"}
