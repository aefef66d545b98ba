"""The formulas of the ops as plain loops over NumPy arrays, in float64.

Slow and written to be checked by eye: every index of every formula is a loop, one
batch element at a time. Nothing of the package is imported.
"""

import cmath
import math

import numpy as np


def multi_token_attention(
    query,
    key,
    value,
    *,
    pre_kq_kernel=None,
    pre_head_kernel=None,
    post_kq_kernel=None,
    post_head_kernel=None,
    mask=None,
    segment_ids=None,
    key_segment_ids=None,
    is_causal=True,
    query_offset=0,
    scale=None,
    key_padding="both",
):
    """Returns the output [B, T, N, Hv] and the final attention weights [B, N, T, S]."""
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    if segment_ids is not None and key_segment_ids is None:
        key_segment_ids = segment_ids
    outputs, weights = [], []
    for batch in range(query.shape[0]):
        segments = None if segment_ids is None else segment_ids[batch]
        allowed = _allowed(
            batch,
            (query.shape[2], query.shape[1], key.shape[1]),
            mask=mask,
            segments=segments,
            key_segments=None if key_segment_ids is None else key_segment_ids[batch],
            is_causal=is_causal,
            query_offset=query_offset,
        )
        x = scale * inner_products(query[batch], key[batch])
        if pre_kq_kernel is not None or pre_head_kernel is not None:
            x = zero_where_forbidden(x, allowed)
        if pre_kq_kernel is not None:
            x = convolve(x, pre_kq_kernel, key_padding=key_padding, segments=segments)
        if pre_head_kernel is not None:
            x = mix_heads(x, pre_head_kernel)
        x = softmax(x, allowed)
        if post_kq_kernel is not None:
            x = convolve(x, post_kq_kernel, key_padding=key_padding, segments=segments)
            x = zero_where_forbidden(x, allowed)
        if post_head_kernel is not None:
            x = mix_heads(x, post_head_kernel)
        outputs.append(weighted_values(x, value[batch]))
        weights.append(x)
    return np.stack(outputs), np.stack(weights)


def differential_attention(
    query,
    key,
    value,
    lam,
    *,
    mask=None,
    segment_ids=None,
    is_causal=True,
    query_offset=0,
):
    """Returns the output [B, T, N / 2, Hv]: (softmax1 - lam * softmax2) @ value for each pair."""
    num_pairs = query.shape[2] // 2
    num_key_pairs = key.shape[2] // 2
    scale = 1 / math.sqrt(query.shape[-1])
    outputs = []
    for batch in range(query.shape[0]):
        segments = None if segment_ids is None else segment_ids[batch]
        allowed = _allowed(
            batch,
            (num_pairs, query.shape[1], key.shape[1]),
            mask=mask,
            segments=segments,
            key_segments=segments,
            is_causal=is_causal,
            query_offset=query_offset,
        )
        maps = []
        for which in (0, 1):
            q = np.stack([query[batch, :, 2 * p + which] for p in range(num_pairs)], axis=1)
            k = np.stack([key[batch, :, 2 * p + which] for p in range(num_key_pairs)], axis=1)
            maps.append(softmax(scale * inner_products(q, k), allowed))
        outputs.append(weighted_values(maps[0] - lam * maps[1], value[batch]))
    return np.stack(outputs)


def rope(x, positions, *, theta=10_000.0, layout="interleaved"):
    """Each pair of features is a complex number, turned by position * theta ** (-2 h / H)."""
    batch, length, num_heads, head_size = x.shape
    out = np.zeros(x.shape)
    for b in range(batch):
        for t in range(length):
            for n in range(num_heads):
                for h in range(head_size // 2):
                    if layout == "interleaved":
                        first, second = 2 * h, 2 * h + 1
                    else:
                        first, second = h, h + head_size // 2
                    angle = int(positions[b, t]) * theta ** (-2 * h / head_size)
                    turned = complex(x[b, t, n, first], x[b, t, n, second])
                    turned *= cmath.exp(1j * angle)
                    out[b, t, n, first] = turned.real
                    out[b, t, n, second] = turned.imag
    return out


def inner_products(query, key):
    """[T, N, H] and [S, K, H] to [N, T, S]; query head n reads key head n // (N / K)."""
    (query_length, num_heads, head_size), (key_length, num_kv_heads, _) = query.shape, key.shape
    out = np.zeros((num_heads, query_length, key_length))
    for n in range(num_heads):
        kv_head = n // (num_heads // num_kv_heads)
        for i in range(query_length):
            for j in range(key_length):
                for h in range(head_size):
                    out[n, i, j] += float(query[i, n, h]) * float(key[j, kv_head, h])
    return out


def weighted_values(weights, value):
    """[N, T, S] and [S, K, Hv] to [T, N, Hv]."""
    num_heads, query_length, key_length = weights.shape
    num_kv_heads, value_size = value.shape[1:]
    out = np.zeros((query_length, num_heads, value_size))
    for n in range(num_heads):
        kv_head = n // (num_heads // num_kv_heads)
        for i in range(query_length):
            for j in range(key_length):
                for h in range(value_size):
                    out[i, n, h] += weights[n, i, j] * float(value[j, kv_head, h])
    return out


def convolve(x, kernel, *, key_padding="both", segments=None):
    """The key-query convolution of one [N, T, S] map with kernels [N, Cq, Ck]."""
    num_heads, query_length, key_length = x.shape
    _, query_kernel_size, key_kernel_size = kernel.shape
    before = {"both": (key_kernel_size - 1) // 2, "left": key_kernel_size - 1, "right": 0}
    out = np.zeros(x.shape)
    for n in range(num_heads):
        for i in range(query_length):
            for j in range(key_length):
                for a in range(query_kernel_size):
                    row = i - (query_kernel_size - 1) + a
                    if row < 0:
                        continue
                    if segments is not None and segments[row] != segments[i]:
                        continue
                    for b in range(key_kernel_size):
                        column = j - before[key_padding] + b
                        if 0 <= column < key_length:
                            out[n, i, j] += float(kernel[n, a, b]) * float(x[n, row, column])
    return out


def mix_heads(x, kernel):
    """[N, T, S] maps mixed by [M, Ch, Ch] kernels, indexed (group, in, out)."""
    num_groups, group_size, _ = kernel.shape
    out = np.zeros(x.shape)
    for group in range(num_groups):
        for source in range(group_size):
            for target in range(group_size):
                for i in range(x.shape[1]):
                    for j in range(x.shape[2]):
                        out[group * group_size + target, i, j] += (
                            float(kernel[group, source, target])
                            * x[group * group_size + source, i, j]
                        )
    return out


def softmax(x, allowed):
    """Softmax over the allowed keys of each row; a row without any gives zeros."""
    out = np.zeros(x.shape)
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            keys = [j for j in range(x.shape[2]) if allowed[n, i, j]]
            if not keys:
                continue
            largest = max(x[n, i, j] for j in keys)
            total = sum(math.exp(x[n, i, j] - largest) for j in keys)
            for j in keys:
                out[n, i, j] = math.exp(x[n, i, j] - largest) / total
    return out


def zero_where_forbidden(x, allowed):
    out = np.zeros(x.shape)
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                if allowed[n, i, j]:
                    out[n, i, j] = x[n, i, j]
    return out


def _allowed(batch, shape, *, mask, segments, key_segments, is_causal, query_offset):
    """Which of the [N, T, S] pairs of one batch element may attend."""
    allowed = np.zeros(shape, bool)
    for n in range(shape[0]):
        for i in range(shape[1]):
            for j in range(shape[2]):
                causal = not is_causal or j <= i + query_offset
                together = segments is None or segments[i] == key_segments[j]
                given = mask is None or _broadcast_entry(mask, (batch, n, i, j))
                allowed[n, i, j] = causal and together and given
    return allowed


def _broadcast_entry(array, index):
    """array[index], where an axis of size 1 stands for every index."""
    return array[tuple(0 if size == 1 else i for size, i in zip(array.shape, index, strict=True))]
