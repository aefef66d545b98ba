"""Bounds of a step's time: arithmetic, memory and network, each at its best.

None of this was measured. The slowest of the three is the estimate, as if the other two went
on meanwhile. What it assumes:

- Arithmetic: model FLOPs (`mta_jax.models.flops`) at the chip's bfloat16 peak, and a third more
  where every layer is computed again for its gradient.
- Memory: parameters and optimiser are read and written once; the weights, gathered as bfloat16,
  are read for each pass of each part of a batch; and where heads or keys are mixed, which no
  fused kernel does yet, each step over the float32 map of logits reads and writes it.
- Network: each device sends what the compiled program's collectives result in, of a
  reduce-scatter what it takes, twice for an all-reduce, over all its links at once.
"""

import dataclasses

from mta_jax.hardware.peak_flops import peak_flops
from mta_jax.models import ModelConfig
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
    again = 4 / 3 if model.remat == "full" else 1
    state = 2 * (plan.params_bytes + plan.optimizer_bytes)
    passes = 4 if model.remat == "full" else 3
    # The float32 parameters of all devices that share a copy, at two bytes each.
    copies = 1 if plan.config.optimizer.ema_decay is None else 2
    whole = plan.params_bytes // copies * plan.mesh["fsdp"] // 2
    weights = plan.config.accumulate * passes * whole
    maps = passes * _map_bytes(model, plan.config.data.row_length) * plan.tokens
    return Roofline(
        arithmetic=again * plan.flops / plan.num_devices / peak,
        memory=(state + weights + maps / plan.num_devices) / chip.bandwidth,
        network=sum(c.bytes_sent for c in plan.collectives) / chip.link_bandwidth,
    )


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
