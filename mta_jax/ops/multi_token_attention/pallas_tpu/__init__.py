"""Fused multi-token attention for TPU, written in Pallas.

- `pallas_tpu`: the entry, and what it supports.
- `one_head`: kernels whose programs hold one head, for a convolution of the logits.
- `all_heads`: kernels whose programs hold all heads of a mixing group.
- `four_steps`: kernels that have all four mixing steps.
- `stacks`: heads of a mixing group in one program.
- `layout`, `memory`, `products`: what they share.
"""

from mta_jax.ops.multi_token_attention.pallas_tpu.pallas_tpu import pallas_tpu

__all__ = ["pallas_tpu"]
