"""Sizes and options of one call that are known before it runs, shared by its kernels."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, round_up
from mta_jax.ops.multi_token_attention.pallas_tpu.products import dot
from mta_jax.typing import Array, DTypeLike

LN_2 = math.log(2)
"""Takes gradients of logits in units of log 2 to those of logits."""

QUERY_HALO = 8
"""Rows of queries kept before a block: what a kernel may reach back."""

QUERY_HALO_BLOCK = 16
"""Rows that are fetched for `QUERY_HALO`: the least that a bfloat16 tile allows."""

KEY_HALO = 16
"""Keys on each side of a block that the taps of its keys may reach."""

STRIP = 64
"""Rows of one strip along the diagonal; it sees the `LANES` keys that end with it."""

WINDOW = LANES + 2 * KEY_HALO
"""Keys that the taps of `LANES` neighbouring keys may reach."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the kernels are built for.

    Lengths are padded to whole blocks, heads come before positions, and values may be
    the joined values of several heads.
    """

    batch: int
    length: int  # padded T
    num_heads: int  # N
    num_kv_heads: int  # K
    num_values: int  # value arrays, each shared by num_heads // num_values heads
    head_size: int  # H
    value_size: int  # Hv of one value array
    query_taps: int  # Cq
    key_taps: int  # Ck
    keys_before: int  # taps on earlier keys
    scale: float
    has_segments: bool
    dtype: np.dtype  # of the operands of matrix products
    out_dtype: DTypeLike
    block: int
    forward_rows: int
    forward_columns: int
    vmem_limit_bytes: int
    interpret: Any = False

    @property
    def keys_after(self) -> int:
        """Taps on later keys."""
        return self.key_taps - 1 - self.keys_before

    @property
    def band(self) -> int:
        """Diagonals whose outputs reach logits of future keys, which count as zero.

        Output (i, j) reads rows from i - (Cq - 1) and keys up to j + `keys_after`, so
        from ``i - j >= band`` on it reads nothing above the diagonal.
        """
        return self.query_taps - 1 + self.keys_after

    @property
    def diagonals(self) -> int:
        """Diagonals of logits, from the main one down, that outputs in the band read."""
        return self.band + self.keys_before

    @property
    def expanded_size(self) -> int:
        """Head size of expanded queries and keys: Cq * H, and zeros to whole registers."""
        return round_up(self.query_taps * self.head_size, LANES)

    @property
    def log2_scale(self) -> float:
        """Factor of the logits in units of log 2, in which the kernels keep them."""
        return self.scale * math.log2(math.e)

    def dot(self, a: Array, b: Array, contract: tuple[int, int]) -> Array:
        """Matrix product over one axis of each, accumulated in float32."""
        return dot(a, b, contract, interpret=self.interpret)


def to_width(x: Array, width: int) -> Array:
    """Columns of equal entries, ``[R, LANES]``, as ``[R, width]``."""
    if width > LANES:
        x = jnp.tile(x, (1, -(-width // LANES)))
    return x[:, :width]


def side_by_side(columns: Ref, rows: slice) -> Array:
    """Rows of columns that are stored one after the other, ``[columns, rows, LANES]``.

    So stored, a bfloat16 column is written in whole registers.
    """
    return jnp.concatenate([columns[c, rows] for c in range(columns.shape[0])], axis=1)


def causal_steps(num_blocks: int, *, keys_outside: bool) -> np.ndarray:
    """Tiles on and below the diagonal, ``[2, steps]``: query block, key block.

    Queries are the outer loop, or keys; the inner loop starts on the diagonal.
    """
    if keys_outside:
        pairs = [(i, j) for j in range(num_blocks) for i in range(j, num_blocks)]
    else:
        pairs = [(i, j) for i in range(num_blocks) for j in range(i, -1, -1)]
    return np.array(pairs, np.int32).T
