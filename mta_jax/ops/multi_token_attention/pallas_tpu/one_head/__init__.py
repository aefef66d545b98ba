"""Kernels whose programs hold one head: for a convolution of the logits."""

from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.block_sizes import BlockSizes
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.call import attend_one_head

__all__ = ["BlockSizes", "attend_one_head"]
