"""BABILong: facts hidden in a long text, and a question about several of them at once.

The protocol is that of Kuratov et al., "BABILong: Testing the Limits of LLMs with Long Context
Reasoning-in-a-Haystack", arXiv 2406.10149, with tasks 1 to 5 of bAbI (Weston et al., arXiv
1502.05698). `docs/evaluate.md` says in what it differs.
"""

from mta_jax.evaluate.babilong.config import BabilongConfig
from mta_jax.evaluate.babilong.evaluation import evaluate_babilong, main

__all__ = ["BabilongConfig", "evaluate_babilong", "main"]
