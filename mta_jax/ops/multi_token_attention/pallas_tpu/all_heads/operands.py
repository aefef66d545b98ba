"""How blocks of the operands reach a program: grids are (batch, program, step)."""

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Cut, Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref, shared
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import to_width
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Column, entry
from mta_jax.typing import Array, Float, Int


def query_spec(plan: Plan, size: int) -> pl.BlockSpec:
    """Rows of all heads of a program, of an array ``[B, N, T, size]``."""
    return pl.BlockSpec(
        (None, plan.group, plan.query_block, size),
        lambda b, p, s, steps: (b, p, entry(steps, Column.QUERY, s), 0),
    )


def key_spec(plan: Plan, size: int, column: Column) -> pl.BlockSpec:
    """Rows of keys or values of an array ``[B, K, S, size]``."""
    return pl.BlockSpec(
        (None, plan.kv_heads, plan.key_block, size),
        lambda b, p, s, steps: (
            b,
            shared(p, plan.programs_of_kv_heads),
            entry(steps, column, s),
            0,
        ),
    )


def matrix_spec(plan: Plan) -> pl.BlockSpec:
    """The program's matrix of an array ``[programs, stack, stack]``."""
    return pl.BlockSpec((None, plan.stack, plan.stack), lambda b, p, s, steps: (p, 0, 0))


def segment_specs(plan: Plan, *, keys_first: bool) -> list[pl.BlockSpec]:
    """Documents of a tile's rows, the same in every lane, and of its columns."""
    rows, columns = (Column.KEY, Column.QUERY) if keys_first else (Column.QUERY, Column.KEY)
    sizes = {Column.QUERY: plan.query_block, Column.KEY: plan.key_block}
    return [
        pl.BlockSpec(
            (None, sizes[rows], LANES), lambda b, p, s, steps: (b, entry(steps, rows, s), 0)
        ),
        pl.BlockSpec(
            (None, 1, sizes[columns]), lambda b, p, s, steps: (b, 0, entry(steps, columns, s))
        ),
    ]


def segment_operands(
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]], *, keys_first: bool
) -> list[Array]:
    """What `segment_specs` take their blocks from, of the documents of queries and of keys."""
    rows, columns = reversed(segments) if keys_first else segments
    return [jnp.broadcast_to(rows[:, :, None], (*rows.shape, LANES)), columns[:, None]]


def hide(
    plan: Plan,
    logits: Float[Array, "stack columns"],
    stack: Array,
    columns: slice,
    *,
    diagonal: int | Cut | None,
    segments: tuple[Ref, Ref] | None,
    keys_first: bool,
) -> Float[Array, "stack columns"]:
    """Logits of some columns of a stack, as far as they may be seen.

    Args:
      plan: of the call.
      logits: of all heads.
      stack: its number in the tile.
      columns: which those of the tile.
      diagonal: see `Plan.places`.
      segments: documents of the tile's rows and columns.
      keys_first: whether rows are keys.
    """
    first_row = stack * plan.rows
    shape = (plan.rows, logits.shape[1])
    seen = None
    distance = diagonal.distance if isinstance(diagonal, Cut) else diagonal
    if isinstance(distance, int) and not keys_first and columns.stop - 1 <= distance:
        distance = None  # even the first row sees all these columns
    if distance is not None:
        row = lax.broadcasted_iota(jnp.int32, shape, 0) + first_row
        column = lax.broadcasted_iota(jnp.int32, shape, 1) + columns.start
        seen = row <= column + distance if keys_first else column <= row + distance
        if isinstance(diagonal, Cut) and diagonal.num_keys is not None:
            seen &= (row if keys_first else column) < diagonal.num_keys
    if segments is not None:
        own = to_width(segments[0][pl.ds(first_row, plan.rows)], shape[1])
        same = own == segments[1][:, columns]
        seen = same if seen is None else seen & same
    if seen is None:
        return logits
    by_head = logits.reshape(plan.group, *shape)
    return jnp.where(seen[None], by_head, MASK_VALUE).reshape(logits.shape)
