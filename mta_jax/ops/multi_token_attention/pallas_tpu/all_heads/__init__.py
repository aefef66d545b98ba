"""Kernels that hold all heads of a mixing group: for head mixing."""

from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.block_sizes import Tiles
from mta_jax.ops.multi_token_attention.pallas_tpu.all_heads.call import attend_all_heads, plan_of

__all__ = ["Tiles", "attend_all_heads", "plan_of"]
