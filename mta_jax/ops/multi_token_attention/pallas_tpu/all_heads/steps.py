"""The order in which the kernels of the backward pass visit tiles."""

import jax.numpy as jnp

from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.plan import Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.steps import Steps, at_offset, known, runs
from mta_jax.typing import Array, Int


def row_by_row(plan: Plan, offset: Int[Array, ""] | None) -> Steps:
    """Each tile once, from left to right; with an offset, stage 1 ends a row."""
    tiling = plan.tiling
    if offset is not None:
        seen = tiling.num_seen(jnp.arange(tiling.rows), offset)
        i, j, taken = runs(seen, tiling.rows * tiling.columns)
        stage = j == tiling.num_seen(i, offset) - 1
        return at_offset(offset, (i, j, j, stage), taken)
    return known([(i, j, j, 0) for i, j in tiling.causal()])


def column_by_column(plan: Plan, offset: Int[Array, ""] | None) -> Steps:
    """Each tile once, from the diagonal down.

    With an offset, stage 1 begins a column, and stage 2 is all of a column that no query sees.
    """
    tiling = plan.tiling
    if offset is not None:

        def first_row(j: Array) -> Array:
            """The first row of tiles that sees these keys; of the first ones, all do."""
            row = (j * plan.key_block - offset) // plan.query_block
            return jnp.where(j == 0, 0, jnp.clip(row, 0, tiling.rows))

        first = first_row(jnp.arange(tiling.columns))
        seen_by = jnp.maximum(tiling.rows - first, 1)
        j, place, taken = runs(seen_by, tiling.rows * tiling.columns)
        unseen = first_row(j) == tiling.rows
        i = jnp.where(unseen, tiling.rows - 1, first_row(j) + place)
        stage = jnp.where(unseen, 2, place == 0)
        return at_offset(offset, (i, j, j, stage), taken)
    tiles = sorted(tiling.causal(), key=lambda tile: tile[::-1])
    return known([(i, j, j, 0) for i, j in tiles])
