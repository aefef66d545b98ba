"""Attention on a mesh.

Each device runs the attention op on its part, under `jax.shard_map`, so fused kernels serve
a mesh as they serve one device:

- Examples are split over data and fsdp.
- Rows of queries are split over context. A device gets the few rows before its own that the
  kernels reach (the halo), and all keys and values.
- Heads are split over tensor where no mixing crosses from one part to another. Otherwise
  their logits would have to cross devices: there every device has all heads, and tensor
  splits the rows of queries further.

Results are those of one device, but for rounding, and for dropout, which draws anew for
each part.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mta_jax.parallel.mesh import axis_sizes
from mta_jax.parallel.rules import RULES, num_parts
from mta_jax.typing import Array, DropoutKey, Float, Int


def attend_on_mesh(
    attention: Callable[..., Array],
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T Kv Hv"],
    *,
    kernels: Mapping[str, Array | None],
    scalars: Mapping[str, Array],
    heads_per_part: int,
    segment_ids: Int[Array, "B T"] | None,
    dropout_key: DropoutKey | None,
    **options: Any,
) -> Float[Array, "B T Nv Hv"]:
    """Causal self-attention by a function of one device; outside a mesh just that function.

    Where the mesh does not divide batch and length evenly, XLA splits as it sees fit.

    Args:
      attention: takes query, key and value, and by name everything below, a
        `query_offset` and `key_segment_ids`.
      query: queries.
      key: keys.
      value: values.
      kernels: mixing kernels by name, with heads or groups of them first; those named
        ``*_kq_kernel`` reach Cq - 1 earlier rows, Cq their second axis.
      scalars: further arrays by name, the same for all heads.
      heads_per_part: query heads that must stay together, at least.
      segment_ids: document of each token.
      dropout_key: random key of dropout.
      **options: passed on.
    """
    arrays: dict[str, Any] = {
        "segment_ids": segment_ids,
        "dropout_key": dropout_key,
        **kernels,
        **scalars,
    }
    sizes = axis_sizes()
    if not sizes:
        return attention(query, key, value, **arrays, **options)
    splits_heads = _splits_heads(query, key, value, heads_per_part, sizes["tensor"])
    rows = RULES["length" if splits_heads else "query"]
    num_row_parts = num_parts("length" if splits_heads else "query", sizes)
    if query.shape[0] % num_parts("batch", sizes) or query.shape[1] % num_row_parts:
        return attention(query, key, value, **arrays, **options)

    halo = sum(
        kernel.shape[1] - 1
        for name, kernel in kernels.items()
        if kernel is not None and name.endswith("_kq_kernel")
    )

    def of_part(query: Array, key: Array, value: Array, arrays: dict[str, Any]) -> Array:
        if arrays["dropout_key"] is not None:
            part = lax.axis_index(tuple(sizes))
            arrays = arrays | {"dropout_key": jax.random.fold_in(arrays["dropout_key"], part)}
        if num_row_parts == 1:
            return attention(query, key, value, **arrays, **options)
        first_row = lax.axis_index(rows) * query.shape[1]
        ids = arrays["segment_ids"]
        if ids is not None:
            arrays = arrays | {
                "segment_ids": _with_rows_before(ids, halo, rows, num_row_parts),
                "key_segment_ids": lax.all_gather(ids, rows, axis=1, tiled=True),
            }
        out = attention(
            _with_rows_before(query, halo, rows, num_row_parts),
            lax.all_gather(key, rows, axis=1, tiled=True),
            lax.all_gather(value, rows, axis=1, tiled=True),
            **arrays,
            # The rows before the first of all stand before every key and see none.
            query_offset=first_row - halo,
            **options,
        )
        return out[:, halo:]

    heads = RULES["heads"] if splits_heads else None
    spec = PartitionSpec(RULES["batch"], rows, heads, None)
    specs: dict[str, Any] = {
        "segment_ids": PartitionSpec(RULES["batch"], rows),
        "dropout_key": PartitionSpec(),
        **dict.fromkeys(kernels, PartitionSpec(heads)),
        **dict.fromkeys(scalars, PartitionSpec()),
    }
    return jax.shard_map(
        of_part,
        in_specs=(spec, spec, spec, specs),
        out_specs=spec,
        # Pallas kernels do not tell over which axes their results differ.
        check_vma=False,
    )(query, key, value, arrays)


def _splits_heads(
    query: Array, key: Array, value: Array, heads_per_part: int, num_parts: int
) -> bool:
    """Whether parts of the heads can do without each other."""
    num_heads = (query.shape[2], key.shape[2], value.shape[2])
    return all(n % num_parts == 0 for n in num_heads) and (
        num_heads[0] // num_parts % heads_per_part == 0
    )


def _with_rows_before(x: Array, count: int, axes: tuple[str, ...], num_parts: int) -> Array:
    """This device's rows [B, R, ...] after the last rows of the devices before it.

    Before the first device's rows there are zeros.
    """
    num_rows = x.shape[1]
    pieces = [x]
    for hop in range(1, num_parts):
        missing = count - (hop - 1) * num_rows
        if missing <= 0:
            break
        tail = x[:, max(num_rows - missing, 0) :]
        to_later = [(part, part + hop) for part in range(num_parts - hop)]
        pieces.insert(0, lax.ppermute(tail, axes, to_later))
    x = jnp.concatenate(pieces, axis=1)
    missing = count + num_rows - x.shape[1]
    return jnp.pad(x, ((0, 0), (missing, 0), *((0, 0) for _ in x.shape[2:])))
