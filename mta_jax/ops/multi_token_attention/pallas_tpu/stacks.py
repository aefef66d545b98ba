"""Logits of several heads in one program: stacked, so that a matrix product mixes heads."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.products import dot
from mta_jax.typing import Array, DTypeLike, Float

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

AT_ONCE = 16
"""Heads or stacks of a round of a loop, at most. With all in one round, the products of one loop
overlap with the vector work of the next."""

_FLOAT32_AT_ONCE = 2
"""Likewise of float32. A product of float32 is several of bfloat16, for which its operands wait in
parts: those of more heads or stacks would take tens of MiB."""

_INTERPRETED_AT_ONCE = 1
"""Likewise where kernels are interpreted: nothing overlaps there, and code is slow to compile."""

STACK = 256
"""Rows of one product that mixes heads, or a few more: the width of a matrix unit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """What the kernels are built for.

    A program of the grid holds `group` heads, which mix with each other only. Heads come
    before positions.

    Head mixing is a product over heads for every logit, which no matrix unit has. So the
    logits of all heads are kept as stacks: `rows` rows of each head below one another. Their
    mixture is the product with `stack_matrix`, Kronecker's of the head kernel and an identity.
    """

    batch: int
    length: int  # T, padded
    key_length: int  # S, padded
    num_heads: int  # N
    num_kv_heads: int  # K
    group: int  # heads of one program
    head_size: int  # H; of `four_steps`, whole registers where one is too narrow
    value_size: int  # Hv; likewise
    scale: float
    mixes_logits: bool
    mixes_probs: bool
    has_segments: bool
    has_offset: bool  # queries stand at a position that only the running program knows
    dtype: np.dtype  # of the operands of matrix products
    out_dtype: DTypeLike
    vmem_limit_bytes: int
    interpret: Any = False

    @property
    def programs(self) -> int:
        """Programs that share the heads."""
        return self.num_heads // self.group

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values that a program reads."""
        return kv_heads_of(self.group, self.num_heads, self.num_kv_heads)

    @property
    def programs_of_kv_heads(self) -> int:
        """Programs that read the same heads of keys and values."""
        return self.programs * self.kv_heads // self.num_kv_heads

    @property
    def rows(self) -> int:
        """Rows of each head in a stack."""
        return stack_rows(self.group)

    @property
    def stack(self) -> int:
        """Rows of a stack."""
        return self.rows * self.group

    @property
    def log2_scale(self) -> float:
        """Factor of the logits in units of log 2, in which the kernels keep them."""
        return self.scale * math.log2(math.e)

    @property
    def logit_dtype(self) -> np.dtype:
        """Of stacked logits: that of a product's operand, where they are one."""
        return self.dtype if self.mixes_logits else np.dtype(jnp.float32)

    def kv_head(self, head: Array) -> Array:
        """Which of a program's heads of keys and values its query head uses."""
        sharing = self.group // self.kv_heads
        return head if sharing == 1 else lax.div(head, np.int32(sharing))

    @property
    def at_once(self) -> int:
        """Heads or stacks of a round of a loop, at most."""
        if self.interpret:
            return _INTERPRETED_AT_ONCE
        return AT_ONCE if self.dtype.itemsize == 2 else _FLOAT32_AT_ONCE

    def for_each(
        self, count: int, body: Callable[[list[Array]], None], *, at_once: int = AT_ONCE
    ) -> None:
        """`for_each` with so many at once, or fewer where operands are wide."""
        for_each(count, body, at_once=min(at_once, self.at_once))

    def dot(self, a: Array, b: Array, contract: tuple[int, int]) -> Array:
        """Matrix product over one axis of each, accumulated in float32."""
        return dot(a, b, contract, interpret=self.interpret)


def stack_matrices(
    plan: GroupPlan, head_kernel: Float[Array, "M Ch Ch"]
) -> Float[Array, "programs stack stack"]:
    """One matrix per program, (out, in), that mixes the heads of stacked rows.

    Row ``o * rows + r`` of its product with a stack is the mixture for head o of the rows r
    of all heads. Smaller mixing groups than a program's are blocks on the diagonal.
    """
    size = head_kernel.shape[1]
    blocks = head_kernel.astype(jnp.float32).reshape(plan.programs, -1, size, size)
    same_group, same_row = jnp.eye(blocks.shape[1]), jnp.eye(plan.rows)
    matrices = jnp.einsum("PMio,MG,rs->PMorGis", blocks, same_group, same_row)
    return matrices.reshape(plan.programs, plan.stack, plan.stack)


def stack_rows(group: int) -> int:
    """Rows of each of `group` heads in a stack: whole registers of bfloat16."""
    rows = 16
    while 2 * rows * group <= STACK and rows < LANES:
        rows *= 2
    return rows


def for_each(count: int, body: Callable[[list[Array]], None], *, at_once: int) -> None:
    """Runs `body` with the indices below `count`, of heads or stacks, so many at once as divide it.

    What a body does for one of its indices, the compiler overlaps with the others.
    """
    while count % at_once:
        at_once -= 1

    def step(first: Array, _: None) -> None:
        body([first * at_once + offset for offset in range(at_once)])

    lax.fori_loop(0, count // at_once, step, None)


def staggered(
    parts: Sequence[_Part],
    first: Callable[[_Part], _Result],
    second: Callable[[_Part, _Result], None],
) -> None:
    """Does both to each part, the first for the next part before the second for a part.

    A matrix unit takes its products in the order in which they are written down: so the
    second product of a part does not hold up the first of the next.
    """
    ahead = None
    for part in parts:
        x = first(part)
        if ahead is not None:
            second(*ahead)
        ahead = part, x
    if ahead is not None:
        second(*ahead)


def put_head(stacks: Ref, head: Array, columns: slice, x: Array) -> None:
    """Writes the rows of a head, ``[R, columns]``, to ``[R / rows, group, rows, ...]``."""
    rows = stacks.shape[2]
    stacks[:, head, :, columns] = x.reshape(-1, rows, x.shape[-1]).astype(stacks.dtype)


def take_head(stacks: Ref, head: Array, columns: slice) -> Array:
    """The rows of a head, ``[R, columns]``."""
    x = stacks[:, head, :, columns]
    return x.reshape(-1, x.shape[-1])


def put_stack(stacks: Ref, g: Array, x: Array) -> None:
    """Writes a stack, of the shape of one in `stacks` or ``[stack, columns]``."""
    stacks[g] = x.reshape(stacks.shape[1:]).astype(stacks.dtype)


def to_width(x: Array, width: int) -> Array:
    """Columns of equal entries, ``[..., LANES]``, as ``[..., width]``."""
    return jnp.concatenate([x] * (width // LANES), axis=-1) if width > LANES else x


def group_fields(args: Arguments) -> dict[str, Any]:
    """What a `GroupPlan` has of a call, all but lengths and what depends on the memory.

    Of arrays, only shapes and dtypes matter.
    """
    batch, _, num_heads, head_size = args.query.shape
    group, scale = mixing_group(args), args.logit_scale
    dtype = np.dtype(jnp.result_type(args.query, args.key, args.value))
    return {
        "batch": batch,
        "num_heads": num_heads,
        "num_kv_heads": num_whole_kv_heads(group, num_heads, args.key.shape[2]),
        "group": group,
        "head_size": head_size,
        "value_size": args.value.shape[3],
        # A traced one is in queries or in the kernel.
        "scale": float(scale) if isinstance(scale, int | float) else 1.0,
        "mixes_logits": args.pre_head_kernel is not None,
        "mixes_probs": args.post_head_kernel is not None,
        "has_segments": args.segment_ids is not None,
        "has_offset": has_offset(args),
        "dtype": dtype,
        # What is wider than the operands is rounded once, at the end.
        "out_dtype": dtype if dtype == args.output_dtype else np.dtype(jnp.float32),
    }


def kv_heads_of(group: int, num_heads: int, num_kv_heads: int) -> int:
    """Heads of keys and values that a program of `group` heads reads."""
    return max(1, group * num_kv_heads // num_heads)


def too_large(fields: dict[str, Any], needed: int, limit: int) -> NotImplementedError:
    """The error where the backward kernel needs more bytes on the chip than there are."""
    return NotImplementedError(
        f"mixing groups of {fields['group']} heads of {fields['head_size']}: the backward kernel "
        f"needs {needed >> 20} MiB on the chip, of {limit >> 20}; 'xla_chunked' has no such limit"
    )


def has_offset(args: Arguments) -> bool:
    """Whether queries and keys may be other parts of a sequence than the same whole one."""
    return (
        args.query.shape[1] != args.key.shape[1]
        or not isinstance(args.query_offset, int)
        or args.query_offset != 0
        or (args.key_segment_ids is not None and args.key_segment_ids is not args.segment_ids)
    )


def mixing_group(args: Arguments) -> int:
    """Heads that any of the mixing steps connects."""
    kernels = (args.pre_head_kernel, args.post_head_kernel)
    return math.lcm(*(kernel.shape[1] for kernel in kernels if kernel is not None))


def num_whole_kv_heads(group: int, num_heads: int, num_kv_heads: int) -> int:
    """Heads of keys and values, K, or N where a program would split those that share them."""
    sharing = num_heads // num_kv_heads
    return num_heads if group % sharing and sharing % group else num_kv_heads


def whole_kv_heads(group: int, num_heads: int, key: Array, value: Array) -> tuple[Array, Array]:
    """Keys and values ``[B, S, K, size]`` with as many heads as `num_whole_kv_heads` says."""
    num_kv_heads = key.shape[2]
    times = num_whole_kv_heads(group, num_heads, num_kv_heads) // num_kv_heads
    return jnp.repeat(key, times, axis=2), jnp.repeat(value, times, axis=2)


def sum_programs(x: Float[Array, "B programs_heads S size"], like: Array) -> Array:
    """Gradients of keys or values that several programs have read, in the shape of `like`."""
    grouped = x.reshape(x.shape[0], like.shape[1], -1, *x.shape[2:])
    return jnp.sum(grouped, axis=2).astype(like.dtype)
