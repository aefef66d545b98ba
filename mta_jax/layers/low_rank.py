"""Low-rank terms beside the kernels of projections (LoRA, https://arxiv.org/abs/2106.09685)."""

import math
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from flax import nnx, traverse_util
from jax import lax

from mta_jax.layers.initializers import projection_init
from mta_jax.typing import Array, DTypeLike, Float

Axes = tuple[tuple[int, ...], tuple[int, ...]]

# The attribute by which Flax's linear layers take another product.
_PRODUCT = "dot_general"


class LowRankProduct(nnx.Module):
    """``x @ kernel + scale * (x @ a) @ b``: what a linear layer multiplies with.

    Serves as `dot_general` of `flax.nnx.Linear` and `LinearGeneral`, so the kernel stays
    where it is and what it is. The term begins as zero: `b` is.

    Args:
      in_shape: axes of the kernel that are summed over.
      out_shape: its other axes, which follow them.
      rank: R, width of the bottleneck.
      scale: factor of the term.
      param_dtype: dtype of `a` and `b`.
      rngs: source of the `params` key.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        *,
        rank: int,
        scale: float,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.scale = scale
        init = projection_init(math.prod(in_shape))
        self.lora_a = nnx.Param(init(rngs.params(), (*in_shape, rank), param_dtype))
        self.lora_b = nnx.Param(jnp.zeros((rank, *out_shape), param_dtype))

    def __call__(
        self,
        inputs: Float[Array, "..."],
        kernel: Float[Array, "..."],
        dimension_numbers: tuple[Axes, Axes],
        **options: Any,
    ) -> Float[Array, "..."]:
        """The product; arguments as of `jax.lax.dot_general`, without batch axes."""
        out = lax.dot_general(inputs, kernel, dimension_numbers, **options)
        a, b = (x[...].astype(inputs.dtype) for x in (self.lora_a, self.lora_b))
        # The first axes of a are those of the kernel.
        narrow = lax.dot_general(inputs, a, dimension_numbers)
        term = jnp.tensordot(narrow, b, axes=1)
        return out + jnp.asarray(self.scale, out.dtype) * term.astype(out.dtype)


def add_low_rank(
    model: nnx.Module, names: Collection[str], *, rank: int, alpha: float, rngs: nnx.Rngs
) -> None:
    """Gives projections of a model a low-rank term each.

    Args:
      model: changed in place.
      names: attributes that hold the projections, such as "query_proj".
      rank: R.
      alpha: the factor of a term is alpha / R.
      rngs: source of the `params` keys.

    Raises:
      ValueError: where the rank is below 1 or above the width of a kernel, or the
        model has no such projection.
    """
    found = set()
    for path, module in nnx.iter_modules(model):
        name = str(path[-1]) if path else ""
        if name not in names or not isinstance(module, nnx.Linear | nnx.LinearGeneral):
            continue
        found.add(name)
        in_shape, out_shape = _shapes(module)
        width = min(math.prod(in_shape), math.prod(out_shape))
        if not 1 <= rank <= width:
            raise ValueError(f"rank {rank}: must be in 1..{width}, the width of {name}")
        product = LowRankProduct(
            in_shape,
            out_shape,
            rank=rank,
            scale=alpha / rank,
            param_dtype=module.param_dtype,
            rngs=rngs,
        )
        # Until now a function, which holds no parameters.
        module.dot_general = nnx.data(product)
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"projections {', '.join(missing)}: the model has none of that name")


def merged(params: dict[str, Any], *, rank: int, alpha: float) -> dict[str, Any]:
    """Parameters of the model without low-rank terms whose kernels include them.

    Args:
      params: pure dictionary of the parameters, `lora_a` and `lora_b` included.
      rank: as of `add_low_rank`.
      alpha: as of `add_low_rank`.
    """
    flat = traverse_util.flatten_dict(params)
    kept = {path: leaf for path, leaf in flat.items() if _PRODUCT not in path}
    for path, a in flat.items():
        if path[-1] != "lora_a":
            continue
        kernel, b = (*path[:-2], "kernel"), flat[*path[:-1], "lora_b"]
        term = jnp.tensordot(a, b, axes=1, precision=lax.Precision.HIGHEST)
        kept[kernel] = kept[kernel] + (alpha / rank) * term.astype(kept[kernel].dtype)
    return traverse_util.unflatten_dict(kept)


def _shapes(module: nnx.Linear | nnx.LinearGeneral) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of the kernel that are summed over, and the others."""
    shape = module.kernel.shape
    num_inputs = 1 if isinstance(module, nnx.Linear) else len(module.in_features)
    return shape[:num_inputs], shape[num_inputs:]
