"""Our model with the paper's attention in plain PyTorch, to be timed beside ours."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mta_jax.benchmark import torch_attention
from mta_jax.models import AttentionKind, ModelConfig


def train_step(config: ModelConfig, kind: AttentionKind, tokens: np.ndarray) -> Callable[[], int]:
    """A call that takes one step of AdamW and returns the number of parameters.

    Args:
      config: sizes; `vocab_size` is set.
      kind: transformer, talking_heads or mta.
      tokens: ids, [B, T + 1]; the first T are read and the last T predicted.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    width, heads, size = config.embed_dim, config.num_heads, config.head_size
    parameters: list[Any] = []

    def parameter(*shape: int, scale: float | None = None) -> Any:
        scale = shape[-1] ** -0.5 if scale is None else scale
        leaf = torch.randn(*shape, generator=generator).mul_(scale).requires_grad_()
        parameters.append(leaf)
        return leaf

    def layer(index: int) -> dict[str, Any]:
        mixes = kind in ("mta", "talking_heads")
        convolves = kind == "mta" and index in (config.mta.kq_layers or ())
        made = {
            "qkv": parameter(3 * width, width),
            "out": parameter(width, width),
            "up": parameter(2 * config.mlp_size, width),
            "down": parameter(width, config.mlp_size),
            "norms": parameter(2, width),
        }
        if kind == "mta":
            made |= {
                "group_norm": parameter(size),
                "gate": parameter(1, size),
                "bias": parameter(1),
            }
        kernels = {}
        for side in ("pre", "post"):
            kernel_size = getattr(config.mta, f"{side}_kq_kernel_size")
            if convolves:
                kernel_scale = math.prod(kernel_size) ** -0.5
                kernels[f"{side}_kq_kernel"] = parameter(heads, *kernel_size, scale=kernel_scale)
            if mixes:
                kernels[f"{side}_head_kernel"] = parameter(1, heads, heads)
        return made | {"kernels": kernels}

    embedding = parameter(config.vocab_size or 0, width)
    final_norm = parameter(width)
    layers = [layer(index) for index in range(config.num_layers)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    ids = torch.tensor(tokens, dtype=torch.int64)
    length = tokens.shape[1] - 1
    frequencies = config.rope_theta ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(length)[:, None] * frequencies
    cosine, sine = angles.cos()[:, None], angles.sin()[:, None]

    def norm(x: Any, weight: Any) -> Any:
        return functional.rms_norm(x, (x.shape[-1],), weight, config.norm_epsilon)

    def rotate(x: Any) -> Any:
        even, odd = x[..., 0::2], x[..., 1::2]
        pairs = (even * cosine - odd * sine, even * sine + odd * cosine)
        return torch.stack(pairs, dim=-1).flatten(-2)

    def attention(x: Any, own: dict[str, Any]) -> Any:
        query, key, value = (
            y.unflatten(-1, (heads, size)) for y in functional.linear(x, own["qkv"]).chunk(3, -1)
        )
        out = torch_attention.attend(rotate(query), rotate(key), value, **own["kernels"])
        if "gate" in own:
            out = norm(out, own["group_norm"])
            out = out * torch.sigmoid(functional.linear(out, own["gate"], own["bias"]))
        return functional.linear(out.flatten(-2), own["out"])

    def feed_forward(x: Any, own: dict[str, Any]) -> Any:
        gate, up = functional.linear(x, own["up"]).chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, own["down"])

    def step() -> int:
        optimizer.zero_grad()
        x = embedding[ids[:, :-1]]
        for own in layers:
            x = x + attention(norm(x, own["norms"][0]), own)
            x = x + feed_forward(norm(x, own["norms"][1]), own)
        logits = functional.linear(norm(x, final_norm), embedding)
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return sum(leaf.numel() for leaf in parameters)

    return step
