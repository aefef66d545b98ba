"""What attention modules make of their arguments before they build or compute anything."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from mta_jax.ops.multi_token_attention import Implementation
from mta_jax.typing import Array, Bool, DropoutKey, Int, Shaped


def default_head_dim(in_features: int, num_heads: int) -> int:
    """The width of the inputs, divided among the heads.

    Raises:
      ValueError: where that leaves a rest.
    """
    if in_features % num_heads:
        raise ValueError(
            f"in_features {in_features} with {num_heads} heads: must be divisible, or give head_dim"
        )
    return in_features // num_heads


def head_dim_of(
    num_heads: int, in_features: int, qkv_features: int | None, head_dim: int | None
) -> int:
    """The size of a head, from whichever of its two names is given.

    Raises:
      ValueError: where both are given and differ, or heads do not divide the features.
    """
    if qkv_features is None:
        return default_head_dim(in_features, num_heads) if head_dim is None else head_dim
    if qkv_features % num_heads:
        raise ValueError(f"qkv_features {qkv_features} with {num_heads} heads: must be divisible")
    if head_dim not in (None, qkv_features // num_heads):
        raise ValueError(
            f"head_dim {head_dim} with qkv_features {qkv_features} and {num_heads} heads: "
            f"give one of them, or head_dim {qkv_features // num_heads}"
        )
    return qkv_features // num_heads


def hashable_implementation(
    implementation: Implementation | Sequence[Implementation] | None,
) -> Implementation | tuple[Implementation, ...] | None:
    """The same choice as part of a graphdef, which must be hashable."""
    if implementation is None or isinstance(implementation, str):
        return implementation
    return tuple(implementation)


def dropout_key(
    rate: float,
    deterministic: bool | None,
    rngs: nnx.Rngs | nnx.RngStream | DropoutKey | None,
) -> DropoutKey | None:
    """The key of one dropout draw, or None where nothing is to be dropped.

    Raises:
      ValueError: where dropout is on and there is no source of randomness, or nobody
        said whether it is on.
    """
    if deterministic or rate == 0.0:
        return None
    if deterministic is None:
        raise ValueError(
            f"dropout_rate {rate} with deterministic None: say True or False in the constructor "
            "or the call, or call train() or eval() of the model"
        )
    if rngs is None:
        raise ValueError(f"dropout_rate {rate} in training: pass rngs, or deterministic=True")
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs


def is_zero(offset: int | Int[Array, ""]) -> bool:
    """Whether an offset is known to be none."""
    return isinstance(offset, int) and offset == 0


def one_batch_axis(x: Shaped[Array, "..."], num_trailing: int) -> Shaped[Array, "..."]:
    """All axes but the last few as one, which is of length 1 where there are no others."""
    trailing = x.shape[x.ndim - num_trailing :]
    return x.reshape(math.prod(x.shape[: x.ndim - num_trailing]), *trailing)


def ids_of_one_batch_axis(
    ids: Int[Array, "... T"] | None, batch: tuple[int, ...]
) -> Int[Array, "B T"] | None:
    """Ids that belong to inputs of these batch axes, as `one_batch_axis` leaves the inputs."""
    if ids is None:
        return None
    return one_batch_axis(jnp.broadcast_to(ids, (*batch, ids.shape[-1])), 1)


def mask_of_one_batch_axis(
    mask: Shaped[Array, "..."] | None, batch: tuple[int, ...]
) -> Bool[Array, "#B #N #T #S"] | None:
    """The mask of inputs of these batch axes, as `one_batch_axis` leaves the inputs.

    Anything but zero is true: Flax's helpers make masks of floats.

    Raises:
      ValueError: where it has other batch axes, or lacks the one of the heads.
    """
    if mask is None:
        return None
    mask = mask.astype(bool)
    leading = mask.shape[:-3]
    if mask.ndim != len(batch) + 3 or any(
        got not in (1, want) for got, want in zip(leading, batch, strict=True)
    ):
        raise ValueError(
            f"mask has shape {mask.shape}: expected batch axes {batch}, or 1, then heads, queries "
            "and keys"
        )
    if math.prod(leading) != 1:
        mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:]))
    return one_batch_axis(mask, 3)
