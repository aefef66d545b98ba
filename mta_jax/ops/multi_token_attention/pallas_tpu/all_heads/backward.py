"""The second backward kernel: every gradient in one pass over the tiles.

Tiles are transposed, keys by queries: then what a row's softmax needs lies along lanes, and
only the product for the queries contracts over rows. Keys are the outer loop. Gradients of
queries gather in main memory, a block at a time: it is read while the last products of a
tile are computed, and written while the first ones of the next are.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.operands import (
    hide,
    key_spec,
    matrix_spec,
    query_spec,
    segment_operands,
    segment_specs,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Cut, Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.steps import column_by_column
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import Ref, compiler_params
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import (
    put_head,
    staggered,
    take_head,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Column, distance_at, entry
from mta_jax.typing import Array, Float, Int


def backward(
    plan: Plan,
    query: Float[Array, "B N T H"],
    key: Float[Array, "B K S H"],
    value: Float[Array, "B K S Hv"],
    pre_matrices: tuple[Float[Array, "programs stack stack"], ...],
    post_matrices: tuple[Float[Array, "programs stack stack"], ...],
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None,
    offset: Int[Array, ""] | None,
    dout: Float[Array, "B N T Hv"],
    rows: Float[Array, "B N 3 T"],
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Gradients in float32.

    Matrices are none, or two: the one that mixes, (out, in), and its transposed. The first
    of `pre_matrices` has the scale of the logits in units of log 2, the second in natural
    ones. `rows` are, of each head's rows, the largest logit, what weights are multiplied by
    after the exponential, and what their gradients are diminished by.

    Returns:
      Those of queries ``[B, N, T, H]``, of keys and values ``[B, programs * kv_heads, S, ...]``,
      and of the two matrices, (out, in) and without scale, ``[B, programs, stack, stack]``.
    """
    steps = column_by_column(plan, offset)
    stacks = plan.key_block // plan.rows
    matrices = [*pre_matrices, *post_matrices]
    operands = [query, key, value, dout, rows, *matrices]
    in_specs = [
        query_spec(plan, plan.head_size),
        key_spec(plan, plan.head_size, Column.KEY),
        key_spec(plan, plan.value_size, Column.KEY),
        query_spec(plan, plan.value_size),
        pl.BlockSpec(
            (None, plan.group, 3, plan.query_block),
            lambda b, p, s, steps: (b, p, 0, entry(steps, Column.QUERY, s)),
        ),
        *[matrix_spec(plan)] * len(matrices),
    ]
    if segments is not None:
        operands += segment_operands(segments, keys_first=True)
        in_specs += segment_specs(plan, keys_first=True)

    def key_gradient(size: int) -> tuple[pl.BlockSpec, jax.ShapeDtypeStruct]:
        heads = plan.programs * plan.kv_heads
        spec = pl.BlockSpec(
            (None, plan.kv_heads, plan.key_block, size),
            lambda b, p, s, steps: (b, p, entry(steps, Column.KEY, s), 0),
        )
        shape = (plan.batch, heads, plan.key_length, size)
        return spec, jax.ShapeDtypeStruct(shape, jnp.float32)

    matrix_gradient = (
        pl.BlockSpec((None, None, plan.stack, plan.stack), lambda b, p, s, steps: (b, p, 0, 0)),
        jax.ShapeDtypeStruct((plan.batch, plan.programs, plan.stack, plan.stack), jnp.float32),
    )
    query_gradient = (
        pl.BlockSpec(memory_space=pl.ANY),
        jax.ShapeDtypeStruct(query.shape, jnp.float32),
    )
    outputs = [
        query_gradient,
        key_gradient(plan.head_size),
        key_gradient(plan.value_size),
        *[matrix_gradient] * (plan.mixes_logits + plan.mixes_probs),
    ]
    out_specs, out_shape = zip(*outputs, strict=True)
    tile = (stacks, plan.group, plan.rows, plan.query_block)
    dquery, dkey, dvalue, *dmatrices = pl.pallas_call(
        functools.partial(_kernel, plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.batch, plan.programs, steps.taken),
            in_specs=in_specs,
            out_specs=list(out_specs),
            scratch_shapes=[
                pltpu.VMEM(tile, plan.logit_dtype),
                pltpu.VMEM(tile, plan.dtype),
                pltpu.VMEM((plan.group, plan.query_block, plan.head_size), jnp.float32),
                pltpu.SemaphoreType.DMA,
                pltpu.SemaphoreType.DMA,
            ],
        ),
        out_shape=list(out_shape),
        compiler_params=compiler_params(plan.vmem_limit_bytes),
        interpret=plan.interpret,
        name="mta_mixed_backward",
    )(steps.table, *operands)
    dpre = dmatrices.pop(0) if plan.mixes_logits else None
    dpost = dmatrices.pop(0) if plan.mixes_probs else None
    return dquery, dkey, dvalue, dpre, dpost


def _kernel(
    plan: Plan,
    steps: Ref,
    query: Ref,
    key: Ref,
    value: Ref,
    dout: Ref,
    rows: Ref,
    *rest: Ref,
) -> None:
    refs = list(rest)
    pre, pre_transposed = (refs.pop(0), refs.pop(0)) if plan.mixes_logits else (None, None)
    post, post_transposed = (refs.pop(0), refs.pop(0)) if plan.mixes_probs else (None, None)
    segments = (refs.pop(0), refs.pop(0)) if plan.has_segments else None
    dquery, dkey, dvalue = refs.pop(0), refs.pop(0), refs.pop(0)
    dpre = refs.pop(0) if plan.mixes_logits else None
    dpost = refs.pop(0) if plan.mixes_probs else None
    # Each is written over, stack by stack: with the gradient of logits, and with weights.
    logits, weights, dquery_block, read_done, write_done = refs
    b, p, s = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    i, j = entry(steps, Column.QUERY, s), entry(steps, Column.KEY, s)
    distance = distance_at(plan.tiling, steps, s) if plan.has_offset else None
    first_row = pl.multiple_of(i * plan.query_block, plan.query_block)
    in_main_memory = dquery.at[
        b, pl.ds(p * plan.group, plan.group), pl.ds(first_row, plan.query_block)
    ]
    read = pltpu.make_async_copy(in_main_memory, dquery_block, read_done)
    write = pltpu.make_async_copy(dquery_block, in_main_memory, write_done)

    @pl.when(s == 0)
    def start_heads() -> None:
        for ref in (dpre, dpost):
            if ref is not None:
                ref[...] = jnp.zeros_like(ref)

    begins_column = i * plan.query_block == j * plan.key_block
    if plan.has_offset:
        begins_column = entry(steps, Column.STAGE, s) > 0

    @pl.when(begins_column)
    def start_column() -> None:
        dkey[...] = jnp.zeros_like(dkey)
        dvalue[...] = jnp.zeros_like(dvalue)

    everything = slice(0, plan.query_block)

    def attend(diagonal: int | Cut | None) -> None:
        # Rows of the tile, and their stacks, that any of its queries sees.
        keys = slice(0, plan.last_key(diagonal))
        stacks = slice(0, keys.stop // plan.rows)
        seen_logits, seen_weights = logits.at[stacks], weights.at[stacks]

        def products(heads: list[Array]) -> None:
            both = [
                (
                    plan.dot(key[plan.kv_head(n), keys], query[n], (1, 1)),
                    plan.dot(value[plan.kv_head(n), keys], dout[n], (1, 1)),
                )
                for n in heads
            ]
            for n, (product, dproduct) in zip(heads, both, strict=True):
                put_head(seen_logits, n, everything, product)
                put_head(seen_weights, n, everything, dproduct)

        def for_values_and_keys(heads: list[Array]) -> None:
            both = [
                (
                    plan.dot(take_head(seen_weights, n, everything), dout[n], (1, 0)),
                    plan.dot(dlogits_of(n), query[n], (1, 0)),
                )
                for n in heads
            ]
            for n, (dvalues, dkeys) in zip(heads, both, strict=True):
                dvalue[plan.kv_head(n), keys] += dvalues
                dkey[plan.kv_head(n), keys] += dkeys

        def dlogits_of(n: Array) -> Array:
            return take_head(seen_logits, n, everything).astype(plan.dtype)

        def for_queries(heads: list[Array]) -> None:
            gradients = [plan.dot(dlogits_of(n), key[plan.kv_head(n), keys], (0, 0)) for n in heads]
            for n, gradient in zip(heads, gradients, strict=True):
                # Nothing was read for the first block of keys.
                dquery_block[n] = gradient + jnp.where(j > 0, dquery_block[n], 0)

        plan.for_each(plan.group, products)
        plan.for_each(stacks.stop, functools.partial(mix, diagonal))
        pl.when(s > 0)(write.wait)
        pl.when(j > 0)(read.start)
        plan.for_each(plan.group, for_values_and_keys)
        pl.when(j > 0)(read.wait)
        plan.for_each(plan.group, for_queries)
        write.start()

    def mix(diagonal: int | Cut | None, indices: list[Array]) -> None:
        """Turns logits and gradients of weights into gradients of logits and weights."""
        factors: list[tuple[Array, Array, Array, Array]] = []

        def first(g: Array) -> tuple[Array, ...]:
            raw, dmixed = (ref[g].reshape(plan.stack, -1) for ref in (logits, weights))
            x = raw * plan.log2_scale if pre is None else plan.dot(pre[...], raw, (1, 0))
            x = hide(plan, x, g, everything, diagonal=diagonal, segments=segments, keys_first=True)
            if post_transposed is None:
                return raw, dmixed, x, dmixed.astype(jnp.float32)
            return raw, dmixed, x, plan.dot(post_transposed[...], dmixed, (1, 0))

        def second(g: Array, values: tuple[Array, ...]) -> None:
            raw, dmixed, x, dp = values
            largest, factor, term = (of_rows(rows[:, r : r + 1]) for r in range(3))
            p = jnp.exp2(x - largest) * factor
            dx = p * (dp - term)
            narrow = p.astype(plan.dtype)
            mixed = narrow if post is None else plan.dot(post[...], narrow, (1, 0))
            weights[g] = mixed.astype(weights.dtype).reshape(weights.shape[1:])
            if pre_transposed is None:
                dlogits = dx * plan.scale
            else:
                dx = dx.astype(plan.dtype)
                dlogits = plan.dot(pre_transposed[...], dx, (1, 0))
            logits[g] = dlogits.astype(logits.dtype).reshape(logits.shape[1:])
            factors.append((raw, dx, dmixed, narrow))

        staggered(indices, first, second)
        # Side by side: sums over the columns of all these stacks stay in the matrix unit.
        raw, dx, dmixed, narrow = (jnp.concatenate(x, axis=1) for x in zip(*factors, strict=True))
        if dpre is not None:
            dpre[...] += plan.dot(dx, raw, (1, 1))
        if dpost is not None:
            dpost[...] += plan.dot(dmixed, narrow, (1, 1))

    def of_rows(x: Float[Array, "group 1 columns"]) -> Float[Array, "stack columns"]:
        shape = (plan.group, plan.rows, x.shape[2])
        return jnp.broadcast_to(x, shape).reshape(plan.stack, -1)

    for is_here, diagonal in plan.places(i, j, distance):
        if plan.has_offset:
            is_here &= entry(steps, Column.STAGE, s) < 2
        pl.when(is_here)(functools.partial(attend, diagonal))
    pl.when(s == pl.num_programs(2) - 1)(write.wait)
