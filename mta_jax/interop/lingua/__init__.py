"""Checkpoints of the paper's code, which builds on lingua: params.json and consolidated.pth.

https://github.com/facebookresearch/RAM/tree/main/projects/mta
"""

from mta_jax.interop.lingua.checkpoint import describe, read, write

__all__ = ["describe", "read", "write"]
