"""Fused multi-token attention for TPU, written in Pallas.

- `pallas_tpu`: the entry, what it supports, head mixing after the softmax.
- `attention`: the differentiable core.
- `expand_keys`, `queries`: the convolution as an inner product of head size Cq * H.
- `band`: exact logits where the causal mask cuts a kernel.
- `forward`, `backward`: the two attention kernels.
- `plan`, `block_sizes`, `segments`, `toeplitz`: sizes and layouts that they share.
"""

from mta_jax.ops.multi_token_attention.pallas_tpu.pallas_tpu import pallas_tpu

__all__ = ["pallas_tpu"]
