"""The kernels that `python -m mta_jax.benchmark tpu` compiles.

A kernel is a function from shapes to a `Program`; adding one means writing that function
and naming it in `KERNELS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mta_jax.ops.multi_token_attention import Implementation, multi_token_attention
from mta_jax.ops.multi_token_attention.pallas_tpu.block_sizes import Memory, block_sizes, tile_size
from mta_jax.ops.multi_token_attention.splash import LARGEST_TILE
from mta_jax.typing import Array

Direction = Literal["forward", "forward+backward"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """What every kernel is compiled for: causal self-attention of one sequence."""

    num_heads: int
    length: int
    head_size: int
    dtype: str
    direction: Direction
    device_kind: str
    """The TPU, in JAX's words."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """The logits that one run of a Pallas kernel's hot region computes."""

    role: Literal["forward", "backward"]
    """The pass it is the main kernel of; ratios compare kernels of one role."""

    heads: int
    queries: int
    keys: int

    runs: tuple[int, ...]
    """How often each region with matrix products runs for these heads, in the order of
    the kernel's source, which is that of the listing."""

    steps: int
    """Steps of the grid for these heads."""

    @property
    def blocks(self) -> float:
        """Size in units of 128 x 128 logits of one head."""
        return self.heads * self.queries * self.keys / 128**2


@dataclasses.dataclass(frozen=True)
class Program:
    """What to compile, and how to read its Pallas kernels."""

    function: Callable[..., Any]

    arguments: tuple[jax.ShapeDtypeStruct, ...]
    """Shapes and dtypes, without a sharding."""

    tiles: Mapping[str, Tile] = dataclasses.field(default_factory=dict)
    """Tile of each main kernel, by a part of its name; empty where there is no Pallas
    kernel at all. Further Pallas kernels prepare or finish, and their cycles are spread
    over all the logits."""


def _splash(shapes: Shapes) -> Program:
    """JAX's own attention kernel for TPUs, the yardstick."""
    attention = functools.partial(multi_token_attention, implementation="splash")
    tile = tile_size(shapes.length, LARGEST_TILE)
    rows = -(-shapes.length // tile)
    # Every step of the square grid is gone through; those above the diagonal do nothing.
    runs, steps = (rows * (rows + 1) // 2,), rows**2
    return Program(
        _in_direction(attention, shapes.direction),
        (_sequence(shapes),) * 3,
        {
            "splash_mha_fwd": Tile("forward", 1, tile, tile, runs, steps),
            "splash_mha_dkv": Tile("backward", 1, tile, tile, runs, steps),
            # Beyond a length, a kernel of its own.
            "splash_mha_dq": Tile("backward", 1, tile, tile, runs, steps),
        },
    )


def _convolved_logits(shapes: Shapes) -> Program:
    """The fused kernel: multi-token attention with a key-query kernel on the logits."""

    def attention(query: Array, key: Array, value: Array, kq_kernel: Array) -> Array:
        return multi_token_attention(
            query, key, value, pre_kq_kernel=kq_kernel, implementation="pallas_tpu"
        )

    memory = Memory(
        head_size=shapes.head_size,
        value_size=shapes.head_size,
        query_taps=6,
        has_segments=False,
        itemsize=jnp.dtype(shapes.dtype).itemsize,
    )
    sizes, padded = block_sizes(shapes.device_kind).fit(shapes.length, memory)
    rows = padded // sizes.block
    tiles = rows * (rows + 1) // 2
    # Tiles far below the diagonal, just below it and on it.
    runs = (tiles - 2 * rows + 1, rows - 1, rows)
    return Program(
        _in_direction(attention, shapes.direction),
        (_sequence(shapes),) * 3 + (_key_query_kernel(shapes),),
        {
            "mta_forward": Tile("forward", 1, sizes.block, sizes.block, runs, tiles),
            # The last region ends a column.
            "mta_backward": Tile("backward", 1, sizes.block, sizes.block, (*runs, rows), tiles),
        },
    )


def _full_mta(implementation: Implementation, shapes: Shapes) -> Program:
    """An implementation of multi-token attention with all four mixing steps."""
    head_kernel = jax.ShapeDtypeStruct((1, shapes.num_heads, shapes.num_heads), jnp.float32)

    def attention(
        query: Array,
        key: Array,
        value: Array,
        pre_kq_kernel: Array,
        pre_head_kernel: Array,
        post_kq_kernel: Array,
        post_head_kernel: Array,
    ) -> Array:
        return multi_token_attention(
            query,
            key,
            value,
            pre_kq_kernel=pre_kq_kernel,
            pre_head_kernel=pre_head_kernel,
            post_kq_kernel=post_kq_kernel,
            post_head_kernel=post_head_kernel,
            implementation=implementation,
        )

    return Program(
        _in_direction(attention, shapes.direction),
        (_sequence(shapes),) * 3 + (_key_query_kernel(shapes), head_kernel) * 2,
    )


def _sequence(shapes: Shapes) -> jax.ShapeDtypeStruct:
    """Queries, keys or values."""
    return jax.ShapeDtypeStruct(
        (1, shapes.length, shapes.num_heads, shapes.head_size), shapes.dtype
    )


def _key_query_kernel(shapes: Shapes) -> jax.ShapeDtypeStruct:
    """The paper's kernel size."""
    return jax.ShapeDtypeStruct((shapes.num_heads, 6, 11), jnp.float32)


KERNELS: dict[str, Callable[[Shapes], Program]] = {
    "splash": _splash,
    "pallas_tpu": _convolved_logits,
    "xla": functools.partial(_full_mta, "xla"),
    "xla_chunked": functools.partial(_full_mta, "xla_chunked"),
}
"""Every kernel by name."""

YARDSTICK = "splash"
"""The kernel that the others' cycles are divided by."""


def _in_direction(forward: Callable[..., Array], direction: Direction) -> Callable[..., Any]:
    """The function itself, or its output and its gradients towards all arguments."""
    if direction == "forward":
        return forward

    def forward_and_backward(*arguments: Array) -> tuple[Array, ...]:
        out, backward = jax.vjp(forward, *arguments)
        # Any cotangent of the right shape will do: nothing is run.
        return out, *backward(out)

    return forward_and_backward
