"""The mathematics of the paper's code in plain PyTorch, to be timed beside ours.

As in https://github.com/facebookresearch/RAM (projects/mta): masked scores, a grouped
`conv2d`, products over heads, a materialised map.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from mta_jax.errors import UserError


def require() -> None:
    """Raises UserError where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("torch true: PyTorch is not installed; pip install 'mta-jax[bench]'")


def functions(
    arrays: dict[str, np.ndarray], dtype: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Calls that compute the output, and the output and all gradients.

    Args:
      arrays: `query`, `key` and `value`, [B, T, N, H], and kernels by the argument
        names of `multi_token_attention`; causal.
      dtype: "float32" or "bfloat16".
    """
    import torch

    leaves = {
        name: torch.tensor(x).to(getattr(torch, dtype)).requires_grad_()
        for name, x in arrays.items()
    }
    dout = torch.ones_like(leaves["query"])

    def forward() -> Any:
        return attend(**leaves)

    def gradient() -> Any:
        for leaf in leaves.values():
            leaf.grad = None
        return forward().backward(dout)

    def without_gradient() -> Any:
        with torch.no_grad():
            return forward()

    return without_gradient, gradient


def attend(
    query: Any,
    key: Any,
    value: Any,
    pre_kq_kernel: Any = None,
    pre_head_kernel: Any = None,
    post_kq_kernel: Any = None,
    post_head_kernel: Any = None,
) -> Any:
    """Causal multi-token attention of [B, T, N, H] tensors; plain attention is PyTorch's own."""
    import torch
    from torch.nn import functional

    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    kernels = (pre_kq_kernel, pre_head_kernel, post_kq_kernel, post_head_kernel)
    if all(kernel is None for kernel in kernels):
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return out.transpose(1, 2)
    length = query.shape[2]
    mask = torch.ones(length, length, dtype=torch.bool).tril()

    def convolve(x: Any, kernel: Any) -> Any:
        num_heads, query_size, key_size = kernel.shape
        x = functional.pad(x, (key_size // 2, key_size // 2, query_size - 1, 0))
        return functional.conv2d(x, kernel[:, None], groups=num_heads)

    def mix(x: Any, kernel: Any) -> Any:
        return torch.einsum("bnts,no->bots", x, kernel[0])

    x = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if pre_kq_kernel is not None:
        x = convolve(x.masked_fill(~mask, 0), pre_kq_kernel)
    if pre_head_kernel is not None:
        x = mix(x, pre_head_kernel)
    x = torch.softmax(x.masked_fill(~mask, float("-inf")), dim=-1)
    if post_kq_kernel is not None:
        x = convolve(x, post_kq_kernel).masked_fill(~mask, 0)
    if post_head_kernel is not None:
        x = mix(x, post_head_kernel)
    return (x @ value).transpose(1, 2)
