"""Needles in a haystack: facts hidden in running text, and questions about them.

Each fact tells a number of a city, as in the paper's section 4.4; the form of the question and
the rest of the protocol, which the paper does not give, are this project's.
"""

from mta_jax.data.needles.context import NeedleContext, NeedleSpec, check_spec, draw_context
from mta_jax.data.needles.documents import NEEDLES, NeedleDocuments

__all__ = [
    "NEEDLES",
    "NeedleContext",
    "NeedleDocuments",
    "NeedleSpec",
    "check_spec",
    "draw_context",
]
