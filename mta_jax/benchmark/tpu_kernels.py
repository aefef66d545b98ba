"""The kernels that `python -m mta_jax.benchmark tpu` compiles.

A kernel is a function from shapes to a `Program`; adding one means writing that function
and naming it in `KERNELS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mta_jax.ops.multi_token_attention import Implementation, multi_token_attention
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu import all_heads, four_steps
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import tile_size
from mta_jax.ops.multi_token_attention.pallas_tpu.memory import vmem_limit
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.block_sizes import BlockSizes, Memory
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

    segments: bool = False
    """Whether documents are told apart, though there is but one. Kernels then compare."""


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

    rows: int
    """Rows of tiles, or columns: how often regions without matrix products run, at most."""

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
    tile = tile_size(shapes.length, LARGEST_TILE)
    rows = -(-shapes.length // tile)
    # Every step of the square grid is gone through; those above the diagonal do nothing.
    runs, steps = (rows * (rows + 1) // 2,), rows**2
    return Program(
        *_attention(shapes, (), "splash"),
        {
            "splash_mha_fwd": Tile("forward", 1, tile, tile, runs, rows, steps),
            "splash_mha_dkv": Tile("backward", 1, tile, tile, runs, rows, steps),
            # Beyond a length, a kernel of its own.
            "splash_mha_dq": Tile("backward", 1, tile, tile, runs, rows, steps),
        },
    )


def _convolved_logits(shapes: Shapes) -> Program:
    """The fused kernel: multi-token attention with a key-query kernel on the logits."""
    memory = Memory(
        head_size=shapes.head_size,
        value_size=shapes.head_size,
        query_taps=6,
        has_segments=shapes.segments,
        itemsize=jnp.dtype(shapes.dtype).itemsize,
    )
    sizes, padded = BlockSizes().fit(shapes.length, memory, vmem_limit(shapes.device_kind))
    rows = padded // sizes.block
    tiles = rows * (rows + 1) // 2
    # Tiles far below the diagonal, just below it and on it.
    runs = (tiles - 2 * rows + 1, rows - 1, rows)
    return Program(
        *_attention(shapes, ("pre_kq_kernel",), "pallas_tpu"),
        {
            "mta_forward": Tile("forward", 1, sizes.block, sizes.block, runs, rows, tiles),
            # The last region ends a column.
            "mta_backward": Tile(
                "backward", 1, sizes.block, sizes.block, (*runs, rows), rows, tiles
            ),
        },
    )


def _mixed_heads(shapes: Shapes) -> Program:
    """The fused kernels of layers without a convolution: head mixing on both sides."""
    kernels = ("pre_head_kernel", "post_head_kernel")
    plan = all_heads.plan_of(
        _arguments(shapes, kernels),
        tiles=all_heads.Tiles(),
        memory_limit=vmem_limit(shapes.device_kind),
        interpret=False,
    )
    size = plan.key_block // plan.query_block
    rows = plan.length // plan.query_block
    # Tiles below the diagonal, and on it by their place.
    below = sum(i // size for i in range(rows))
    on_diagonal = tuple(len(range(place, rows, size)) for place in range(size))
    once = (below, *on_diagonal)

    def tile(role: Literal["forward", "backward"], runs: tuple[int, ...], passes: int = 1) -> Tile:
        sizes = (plan.group, plan.query_block, plan.key_block)
        return Tile(role, *sizes, runs, rows, sum(once) * passes)

    return Program(
        *_attention(shapes, kernels, "pallas_tpu"),
        {
            # Two passes, and what ends the first of them in each row.
            "mta_mixed_forward": tile("forward", (*once, rows, *once), passes=2),
            "mta_mixed_row_terms": tile("backward", once),
            "mta_mixed_backward": tile("backward", once),
        },
    )


def _four_steps(shapes: Shapes) -> Program:
    """The fused kernels of layers with all four mixing steps."""
    forward = four_steps.plan_of(
        _arguments(shapes, _ALL_KERNELS),
        windows=four_steps.MOST_WINDOWS,
        memory_limit=vmem_limit(shapes.device_kind),
        interpret=False,
    )

    def tile(role: Literal["forward", "backward"]) -> Tile:
        plan = dataclasses.replace(forward, is_backward=role == "backward")
        cut, whole = four_steps.count_tiles(plan)
        # Tiles that hold several documents have regions of their own.
        once = (0, cut, whole) if shapes.segments else (cut, whole)
        # What ends the first pass in each row has products forward.
        runs = (*once, plan.query_windows, *once) if role == "forward" else once * 2
        return Tile(
            role,
            plan.group,
            plan.queries,
            plan.windows * plan.keys,
            runs,
            plan.query_windows,
            2 * (cut + whole),
        )

    return Program(
        *_attention(shapes, _ALL_KERNELS, "pallas_tpu"),
        {"mta_full_forward": tile("forward"), "mta_full_backward": tile("backward")},
    )


_ALL_KERNELS = ("pre_kq_kernel", "pre_head_kernel", "post_kq_kernel", "post_head_kernel")


def _full_mta(implementation: Implementation, shapes: Shapes) -> Program:
    """An implementation of multi-token attention with all four mixing steps."""
    return Program(*_attention(shapes, _ALL_KERNELS, implementation))


def _attention(
    shapes: Shapes, kernels: Sequence[str], implementation: Implementation
) -> tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]:
    """A function of queries, keys, values, some kernels and documents, and their shapes."""
    further = {name: _kernel(shapes, name) for name in kernels} | _documents(shapes)

    def attention(query: Array, key: Array, value: Array, *arrays: Array) -> Array:
        given: Any = dict(zip(further, arrays, strict=True))
        return multi_token_attention(query, key, value, **given, implementation=implementation)

    arguments = (_sequence(shapes),) * 3 + tuple(further.values())
    return _in_direction(attention, shapes.direction), arguments


def _arguments(shapes: Shapes, kernels: Sequence[str]) -> Arguments:
    """A call, of which only shapes are given."""
    arrays: Any = {name: _kernel(shapes, name) for name in kernels} | _documents(shapes)
    sequence: Any = _sequence(shapes)
    return Arguments(query=sequence, key=sequence, value=sequence, **arrays)


def _kernel(shapes: Shapes, name: str) -> jax.ShapeDtypeStruct:
    """A key-query kernel of the paper's size, or one that mixes all heads."""
    heads = shapes.num_heads
    return jax.ShapeDtypeStruct((heads, 6, 11) if "kq" in name else (1, heads, heads), jnp.float32)


def _documents(shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    """The argument that tells documents apart, where that is done."""
    ids = jax.ShapeDtypeStruct((1, shapes.length), jnp.int32)
    return {"segment_ids": ids} if shapes.segments else {}


def _sequence(shapes: Shapes) -> jax.ShapeDtypeStruct:
    """Queries, keys or values."""
    return jax.ShapeDtypeStruct(
        (1, shapes.length, shapes.num_heads, shapes.head_size), shapes.dtype
    )


KERNELS: dict[str, Callable[[Shapes], Program]] = {
    "splash": _splash,
    "pallas_tpu": _convolved_logits,
    "pallas_tpu_head_mixing": _mixed_heads,
    "pallas_tpu_full": _four_steps,
    "xla": functools.partial(_full_mta, "xla"),
    "xla_chunked": functools.partial(_full_mta, "xla_chunked"),
}
"""Every kernel by name."""

YARDSTICK = "splash"
"""The kernel that the others' cycles are divided by."""


def _in_direction(forward: Callable[..., Array], direction: Direction) -> Callable[..., Any]:
    """The function itself, or its output and its gradients towards all that have one."""
    if direction == "forward":
        return forward

    def forward_and_backward(*arguments: Array) -> tuple[Array, ...]:
        # Integers, which have no gradient, come last.
        floats = [x for x in arguments if jnp.issubdtype(x.dtype, jnp.floating)]
        rest = arguments[len(floats) :]
        out, backward = jax.vjp(lambda *floats: forward(*floats, *rest), *floats)
        # Any cotangent of the right shape will do: nothing is run.
        return out, *backward(out)

    return forward_and_backward
