"""Pictures: learning curves, mixing kernels, attention maps, found needles, accuracies.

All return figures, whose colours, lines and marks are those of `mta_jax.viz.style`;
`attention_page` returns a page of HTML to move about in.
"""

from mta_jax.viz.attention import attention_maps
from mta_jax.viz.curves import learning_curves
from mta_jax.viz.distraction import accuracy_by_length
from mta_jax.viz.errors import answer_errors
from mta_jax.viz.head_mixing import head_mixing_kernels
from mta_jax.viz.interactive import attention_page
from mta_jax.viz.kernels import key_query_kernels
from mta_jax.viz.losses import loss_comparison
from mta_jax.viz.needles import needle_heat_map

__all__ = [
    "accuracy_by_length",
    "answer_errors",
    "attention_maps",
    "attention_page",
    "head_mixing_kernels",
    "key_query_kernels",
    "learning_curves",
    "loss_comparison",
    "needle_heat_map",
]
