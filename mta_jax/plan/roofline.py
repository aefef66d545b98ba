"""Bounds of a step's time: arithmetic, memory and network, each at its best.

None of this was measured. The slowest of the three is the estimate, as if the other two went
on meanwhile. What it assumes:

- Arithmetic: model FLOPs (`mta_jax.models.flops`) at the chip's bfloat16 peak, and those of the
  layers' forward pass once more as far as they are computed again for their gradients.
- Memory: parameters and optimiser are read and written once; the weights, gathered as bfloat16,
  are read for each pass of each part of a batch; and on a GPU, where no fused kernel mixes heads
  or keys, each step over the float32 map of logits reads and writes it. On a TPU all kinds of
  attention have kernels that keep the map on the chip.
- Network: each device sends what the compiled program's collectives result in, of a
  reduce-scatter what it takes, twice for an all-reduce, over all its links at once.
"""

import dataclasses

from mta_jax.hardware.peak_flops import peak_flops
from mta_jax.hardware.topologies import Topology
from mta_jax.models import ModelConfig
from mta_jax.models.flops import flops_per_token
from mta_jax.plan.compilation import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of one step, at least."""

    arithmetic: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """The bound."""
        return max(self.arithmetic, self.memory, self.network)


def roofline(plan: Plan) -> Roofline:
    """The bounds of a plan that fits."""
    chip, model = plan.chip, plan.config.model
    peak = peak_flops(chip.device_kind)
    assert peak is not None
    state = 2 * (plan.params_bytes + plan.optimizer_bytes)
    passes = 4 if model.remat in ("full", "attention") else 3
    # The float32 parameters of all devices that share a copy, at two bytes each.
    copies = 1 if plan.config.optimizer.ema_decay is None else 2
    whole = plan.params_bytes // copies * plan.mesh["fsdp"] // 2
    weights = plan.config.accumulate * passes * whole
    maps = 0
    if not isinstance(chip, Topology):
        mixed = 4 if model.remat == "full" else 3
        maps = mixed * _map_bytes(model, plan.config.data.row_length) * plan.tokens
    return Roofline(
        arithmetic=(plan.flops + plan.tokens * _flops_again(plan)) / plan.num_devices / peak,
        memory=(state + weights + maps / plan.num_devices) / chip.bandwidth,
        network=sum(c.bytes_sent for c in plan.collectives) / chip.link_bandwidth,
    )


def _flops_again(plan: Plan) -> int:
    """FLOPs per token of what layers compute again for their gradients."""
    model = plan.config.model
    flops = flops_per_token(model, plan.config.data.row_length)
    return {
        "none": 0,
        "dots": 0,
        "attention": flops.projections + flops.feed_forward,
        "full": flops.forward - flops.output_layer,
    }[model.remat]


def _map_bytes(model: ModelConfig, length: int) -> int:
    """Bytes per token that the steps over maps of logits read and write in a forward pass."""
    mta = model.mta
    total = 0
    for layer in range(model.num_layers):
        kind = model.attention_of(layer)
        steps = 2 if kind == "talking_heads" else 0
        if kind == "mta":
            convolves = mta.kq_layers is None or layer in mta.kq_layers
            sizes: list[object] = [mta.pre_head_kernel_size, mta.post_head_kernel_size]
            if convolves:
                sizes += [mta.pre_kq_kernel_size, mta.post_kq_kernel_size]
            steps = sum(size is not None for size in sizes)
        if steps:
            # The softmax is one more; each reads and writes four bytes of a causal map.
            total += (steps + 1) * 2 * 4 * model.num_heads * (length + 1) // 2
    return total
