"""Kernels that have all four mixing steps."""

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.call import (
    MOST_WINDOWS,
    attend_in_four_steps,
    plan_of,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import count_tiles

__all__ = ["MOST_WINDOWS", "attend_in_four_steps", "count_tiles", "plan_of"]
