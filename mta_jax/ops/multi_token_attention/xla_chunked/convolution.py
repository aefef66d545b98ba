"""Key-query convolution of one row block.

On a CPU it is a sum of shifted maps: one multiply-add per tap and logit is the least
arithmetic there is, and XLA fuses the whole sum into one pass over the map. Elsewhere it is
`banded_product`. XLA's own derivative of the sum is many passes, so the gradient is written
out: for the map it is the same convolution with the taps reversed, for the kernel a matrix
product over windows of keys.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mta_jax.ops.key_query_convolution import key_padding_widths
from mta_jax.ops.multi_token_attention.xla_chunked.banded_product import banded_product
from mta_jax.ops.multi_token_attention.xla_chunked.materialize import materialized
from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, Bool, Float, KeyPadding

# Keys per window in the gradient of the kernel. Wider windows waste arithmetic on pairs
# that no tap connects, narrower ones make small products.
_WINDOW = 16

# Groups of rows that are summed on their own first, since the error of a sum grows with
# its length. More groups would make products that XLA's CPU compiler runs on one thread.
_ROW_GROUPS = 4


class _Edges(NamedTuple):
    """Zeros before and after the key axis, the padding of the convolution."""

    before: int
    after: int


def block_convolution(
    maps: Float[Array, "N R S"],
    kq_kernel: Float[Array, "N Cq Ck"],
    key_padding: KeyPadding,
    row_taps: Bool[Array, "Cq Rout"] | None = None,
) -> Float[Array, "N Rout S"]:
    """Convolves a row block; its first Cq - 1 rows are there to be reached only.

    Args:
      maps: rows of the attention map, zero where a query may not attend.
      kq_kernel: one kernel per head.
      key_padding: see `key_query_convolution`.
      row_taps: where tap a of output row i counts; None: everywhere.

    Returns:
      Output rows Cq - 1 to R - 1, so Rout = R - Cq + 1.
    """
    edges = _Edges(*key_padding_widths(kq_kernel.shape[2], key_padding))
    return _convolve(edges, maps, kq_kernel, row_taps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(edges: _Edges, maps: Array, kq_kernel: Array, row_taps: Array | None) -> Array:
    convolve = functools.partial(_padded_convolution, edges)
    return materialized(convolve, kq_kernel[0, 0, 0], maps, kq_kernel, row_taps)


def _padded_convolution(
    edges: _Edges, maps: Array, kq_kernel: Array, row_taps: Array | None
) -> Array:
    padded = jnp.pad(maps, ((0, 0), (0, 0), edges))
    if target_platform() == "cpu":
        return _shifted_sum(padded, kq_kernel, row_taps)
    query_size = kq_kernel.shape[1]
    num_out = maps.shape[1] - query_size + 1
    rows = [padded[:, a : a + num_out] for a in range(query_size)]
    if row_taps is not None:
        rows = [jnp.where(row_taps[a, :, None], x, 0) for a, x in enumerate(rows)]
    return banded_product(rows, kq_kernel)


def _shifted_sum(padded: Array, kq_kernel: Array, row_taps: Array | None) -> Array:
    num_heads, num_rows, num_in = padded.shape
    _, query_size, key_size = kq_kernel.shape
    num_out, num_keys = num_rows - query_size + 1, num_in - key_size + 1
    total = jnp.zeros((num_heads, num_out, num_keys), padded.dtype)
    for a in range(query_size):
        row = jnp.zeros_like(total)
        for b in range(key_size):
            tap = lax.slice(padded, (0, a, b), (num_heads, a + num_out, b + num_keys))
            row += kq_kernel[:, a, b, None, None] * tap
        total += row if row_taps is None else jnp.where(row_taps[a, :, None], row, 0)
    return total


def _map_gradient(edges: _Edges, dout: Array, kq_kernel: Array, row_taps: Array | None) -> Array:
    """The convolution transposed: each row of the map collects from the rows that read it."""
    query_size = kq_kernel.shape[1]
    reversed_kernel = kq_kernel[:, ::-1, ::-1]
    reversed_edges = _Edges(edges.after, edges.before)
    if row_taps is None:
        padded = jnp.pad(dout, ((0, 0), (query_size - 1, query_size - 1), (0, 0)))
        return _padded_convolution(reversed_edges, padded, reversed_kernel, None)
    # What a tap may read, it may be read by: its rule moves with the row it is about.
    shifted = [
        jnp.pad(jnp.where(row_taps[a, :, None], dout, 0), ((0, 0), (a, query_size - 1 - a), (0, 0)))
        for a in range(query_size)
    ]
    if target_platform() != "cpu":
        rows = [jnp.pad(x, ((0, 0), (0, 0), reversed_edges)) for x in shifted]
        return banded_product(rows, kq_kernel[:, :, ::-1])
    total = jnp.zeros((), dout.dtype)
    for a, x in enumerate(shifted):
        total += _padded_convolution(reversed_edges, x, kq_kernel[:, a, None, ::-1], None)
    return total


def _kernel_gradient(
    edges: _Edges, kq_shape: tuple[int, ...], maps: Array, dout: Array, row_taps: Array | None
) -> Array:
    """``dkernel[a, b] = sum_ij dout[i, j] * maps[i + a, j + b]`` through windows of keys.

    All pairs within a window of output keys and the input keys it reaches are one
    matrix product; each tap then sums the pairs at its distance.
    """
    num_heads, query_size, key_size = kq_shape
    num_rows, num_keys = maps.shape[1:]
    num_windows = -(-num_keys // _WINDOW)
    reach = _WINDOW + key_size - 1
    extra_rows = -num_rows % _ROW_GROUPS
    extra_keys = num_windows * _WINDOW - num_keys

    # Windows overlap by the reach of the kernel: each is whole windows and a remainder.
    starts = range(-(-reach // _WINDOW))
    behind = extra_keys + (len(starts) - 1) * _WINDOW - edges.before
    padded = jnp.pad(maps, ((0, 0), (0, extra_rows), (edges.before, behind)))
    pieces = [
        padded[..., start * _WINDOW : (start + num_windows) * _WINDOW].reshape(
            num_heads, -1, num_windows, _WINDOW
        )
        for start in starts
    ]
    pieces[-1] = pieces[-1][..., : reach - starts[-1] * _WINDOW]
    inputs = jnp.concatenate(pieces, axis=-1)

    outputs = jnp.pad(dout, ((0, 0), (0, 0), (0, extra_keys)))
    outputs = outputs.reshape(num_heads, -1, num_windows, _WINDOW)
    taps = []
    for a in range(query_size):
        allowed = outputs if row_taps is None else jnp.where(row_taps[a, :, None, None], outputs, 0)
        rows = (a, query_size - 1 - a + extra_rows)
        taps.append(jnp.pad(allowed, ((0, 0), rows, (0, 0), (0, 0))))
    pairs = jnp.einsum(
        "NCXI,NCXO->NCIO",
        inputs.reshape(num_heads, _ROW_GROUPS, -1, reach),
        jnp.concatenate(taps, axis=-1).reshape(num_heads, _ROW_GROUPS, -1, query_size * _WINDOW),
        precision=lax.Precision.HIGHEST,
    )
    pairs = jnp.sum(pairs, axis=1).reshape(num_heads, reach, query_size, _WINDOW)
    distance = np.arange(reach)[:, None] - np.arange(_WINDOW)
    at_tap = (distance == np.arange(key_size)[:, None, None]).astype(pairs.dtype)
    return jnp.einsum("NIQO,KIO->NQK", pairs, at_tap, precision=lax.Precision.HIGHEST)


def _forward(
    edges: _Edges, maps: Array, kq_kernel: Array, row_taps: Array | None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _convolve(edges, maps, kq_kernel, row_taps), (maps, kq_kernel, row_taps)


def _backward(
    edges: _Edges, residuals: tuple[Array, Array, Array | None], dout: Array
) -> tuple[Array, Array, None]:
    maps, kq_kernel, row_taps = residuals
    to_maps = functools.partial(_map_gradient, edges)
    to_kernel = functools.partial(_kernel_gradient, edges, kq_kernel.shape)
    return (
        materialized(to_maps, kq_kernel[0, 0, 0], dout, kq_kernel, row_taps),
        materialized(to_kernel, kq_kernel[0, 0, 0], maps, dout, row_taps),
        None,
    )


_convolve.defvjp(_forward, _backward)
