"""Expanded keys: what each query tap sees of the keys around a key.

Without the causal mask, ``conv[i, j] = sum_a q[i - (Cq-1) + a] . expanded[j, a]`` with
``expanded[j, a] = sum_b w[a, b] k[j - before + b]``: an inner product of head size Cq * H.
Keys of other documents are left out of the sum; with the same rule for query rows, all
pairs in one document come out right, and no others are used.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, shared
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import (
    KEY_HALO,
    WINDOW,
    Plan,
    to_width,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.segments import SegmentLayouts
from mta_jax.typing import Array, Float


def expand_keys(
    plan: Plan,
    key: Float[Array, "B K T H"],
    expansion: Float[Array, "N rows window"],
    segments: SegmentLayouts | None,
) -> Float[Array, "B N T CqH"]:
    """Expanded keys, scaled so that they give logits in units of log 2."""
    block = plan.block
    group = plan.num_heads // plan.num_kv_heads
    in_specs = [
        pl.BlockSpec((None, *expansion.shape[1:]), lambda b, n, j: (n, 0, 0)),
        *key_window_specs(plan, block, lambda b, n, j: (b, shared(n, group), j)),
    ]
    operands = [expansion, key, key, key]
    if segments is not None:
        in_specs += segment_specs(block, lambda b, n, j: (b, j))
        operands += [segments.columns, segments.windows]
    return pl.pallas_call(
        functools.partial(_kernel, plan),
        grid=(plan.batch, plan.num_heads, plan.length // block),
        in_specs=in_specs,
        out_specs=pl.BlockSpec(
            (None, None, block, plan.expanded_size), lambda b, n, j: (b, n, j, 0)
        ),
        out_shape=jax.ShapeDtypeStruct(
            (plan.batch, plan.num_heads, plan.length, plan.expanded_size), plan.dtype
        ),
        scratch_shapes=[pltpu.VMEM((block + 2 * KEY_HALO, plan.head_size), plan.dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel"),
            vmem_limit_bytes=plan.vmem_limit_bytes,
        ),
        interpret=plan.interpret,
        name="mta_expand_keys",
    )(*operands)


def key_window_specs(plan: Plan, block: int, index: Callable) -> list[pl.BlockSpec]:
    """A block of keys, the `KEY_HALO` keys before it and those after it.

    `index` takes the grid to batch element, key head and key block. At the ends of the
    row the halo holds other keys; `load_key_window` puts zeros there.
    """
    ratio = block // KEY_HALO
    last = plan.length // KEY_HALO - 1

    def spec(rows: int, place: Callable) -> pl.BlockSpec:
        def index_map(*grid: Any) -> tuple:
            b, head, j = index(*grid)
            return b, head, place(j), 0

        return pl.BlockSpec((None, None, rows, plan.head_size), index_map)

    return [
        spec(KEY_HALO, lambda j: jnp.maximum(j * ratio - 1, 0)),
        spec(block, lambda j: j),
        spec(KEY_HALO, lambda j: jnp.minimum((j + 1) * ratio, last)),
    ]


def segment_specs(block: int, index: Callable) -> list[pl.BlockSpec]:
    """Documents of a block of keys and of the windows of its sub-blocks."""

    def columns(*grid: Any) -> tuple:
        b, j = index(*grid)
        return b, j, 0

    def windows(*grid: Any) -> tuple:
        b, j = index(*grid)
        return b, j, 0, 0

    return [
        pl.BlockSpec((None, block, LANES), columns),
        pl.BlockSpec((None, block // LANES, 1, WINDOW), windows),
    ]


def load_key_window(
    window: Ref, before: Ref, block: Ref, after: Ref, is_first: Array, is_last: Array
) -> None:
    """Joins a block of keys and its halos."""
    rows = block.shape[0]
    window[:KEY_HALO] = jnp.where(is_first, jnp.zeros_like(before), before[...])
    window[KEY_HALO : KEY_HALO + rows] = block[...]
    window[KEY_HALO + rows :] = jnp.where(is_last, jnp.zeros_like(after), after[...])


def in_document(plan: Plan, columns: Ref, windows: Ref, part: int) -> Array:
    """Which keys of the window share the document of each key, per stacked query tap."""
    own = columns[part * LANES : (part + 1) * LANES]
    same = to_width(own, WINDOW) == windows[part]
    return jnp.concatenate([same] * plan.query_taps, axis=0)


def _kernel(plan: Plan, expansion: Ref, before: Ref, block: Ref, after: Ref, *rest: Ref) -> None:
    *segment_refs, out, window = rest
    j = pl.program_id(2)
    load_key_window(window, before, block, after, j == 0, j == pl.num_programs(2) - 1)

    matrix = expansion[...]
    num_parts = plan.block // LANES
    # Windows side by side fill a matrix unit that is 256 wide.
    joined = 1 if plan.has_segments else min(num_parts, max(1, 2 * LANES // plan.head_size))
    for first in range(0, num_parts, joined):
        parts = range(first, first + joined)
        if plan.has_segments:
            same = in_document(plan, segment_refs[0], segment_refs[1], first)
            matrix = jnp.where(same, expansion[...], jnp.zeros_like(matrix))
        windows = [window[part * LANES : part * LANES + WINDOW] for part in parts]
        taps = plan.dot(matrix, jnp.concatenate(windows, axis=1), (1, 0)) * plan.log2_scale
        for part in parts:
            rows = slice(part * LANES, (part + 1) * LANES)
            lanes = slice((part - first) * plan.head_size, (part - first + 1) * plan.head_size)
            side_by_side = [
                taps[a * LANES : (a + 1) * LANES, lanes] for a in range(plan.query_taps)
            ]
            padding = plan.expanded_size - plan.query_taps * plan.head_size
            if padding:
                side_by_side.append(jnp.zeros((LANES, padding), jnp.float32))
            out[rows] = jnp.concatenate(side_by_side, axis=1).astype(out.dtype)
