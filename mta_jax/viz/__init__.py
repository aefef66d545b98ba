"""Pictures: learning curves, mixing kernels, attention maps, found needles, accuracies.

All return figures.

Colours are from Okabe and Ito's palette and lines differ in dash as well, so that
pictures read in black and white and by colour-blind readers.
"""

from mta_jax.viz.attention import attention_maps
from mta_jax.viz.curves import learning_curves
from mta_jax.viz.distraction import accuracy_by_length
from mta_jax.viz.errors import answer_errors
from mta_jax.viz.head_mixing import head_mixing_kernels
from mta_jax.viz.kernels import key_query_kernels
from mta_jax.viz.needles import needle_heat_map

__all__ = [
    "accuracy_by_length",
    "answer_errors",
    "attention_maps",
    "head_mixing_kernels",
    "key_query_kernels",
    "learning_curves",
    "needle_heat_map",
]
