"""What errors are measured by.

An error may be at most twice that of the plain path in the same dtype. Float32 is judged by
the reference in float64, with the float32 reference as the plain path; bfloat16 by the float32
reference, with `plain_bfloat16`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mta_jax.ops.head_mixing import head_mixing
from mta_jax.ops.key_query_convolution import key_query_convolution
from mta_jax.ops.masks import MASK_VALUE, attention_mask
from mta_jax.ops.multi_token_attention import multi_token_attention
from tests.ops.attention_cases import SEEDS, SQUARE, Arrays, Case


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
