"""What mixing and gates learned, as figures for the metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mta_jax.data import Batch
from mta_jax.training.state import Program
from mta_jax.typing import Array


def make_kernel_distances(program: Program) -> Callable[[Any], dict[str, float]]:
    """The compiled function ``params -> figures``: how far each kernel is from the identity.

    ``kernels/layer_2/pre_kq`` and so on, with layers from 0: the Frobenius norm of the
    kernel minus the identity, divided by the identity's, as a mean over heads (over groups
    for head mixing). 0 leaves attention as it is. Empty for a model without mixing.
    """

    @jax.jit
    def distances(params: Any) -> Mapping[int, Mapping[str, Array]]:
        return program.model(params).kernel_distances()

    def figures(params: Any) -> dict[str, float]:
        return {
            f"kernels/layer_{layer}/{place}": float(distance)
            for layer, places in jax.device_get(distances(params)).items()
            for place, distance in places.items()
        }

    return figures


def make_gate_openness(program: Program) -> Callable[[Any, Batch], dict[str, float]]:
    """The compiled function ``(params, batch) -> figures``: how far gates are open.

    ``gates/layer_2`` and so on: the mean of the sigmoid gate of the group norm over heads
    and the tokens of the batch whose weight is above 0 (0, if there are none). Costs a
    forward pass without the output layer. Empty for a model without gates.
    """

    @jax.jit
    def means(params: Any, batch: Mapping[str, Array]) -> Mapping[int, Array]:
        openness = program.model(params).gate_openness(
            batch["inputs"],
            positions=batch.get("inputs_positions"),
            segment_ids=batch.get("inputs_segment_ids"),
        )
        counts = batch["targets_weights"] > 0
        num_tokens = jnp.maximum(jnp.sum(counts), 1)
        return {
            layer: jnp.sum(jnp.mean(gates.astype(jnp.float32), axis=-1) * counts) / num_tokens
            for layer, gates in openness.items()
        }

    def figures(params: Any, batch: Batch) -> dict[str, float]:
        return {
            f"gates/layer_{layer}": float(mean)
            for layer, mean in jax.device_get(means(params, batch)).items()
        }

    return figures
