"""Which row blocks there are, and the loops over them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from mta_jax.ops.kept import keep
from mta_jax.ops.multi_token_attention.arguments import Arguments
from mta_jax.ops.multi_token_attention.xla_chunked.row_block import (
    Inputs,
    Options,
    attend_row_block,
    halo,
)
from mta_jax.ops.target import target_platform
from mta_jax.typing import Array, Bool, DropoutKey, Float, Int

# The map of one block should stay near the processor: in a core's cache on a CPU, where
# it is of one example, or of some if they are small. On an accelerator, which takes all
# examples at once, it only has to be small beside the memory; this is for each.
_BLOCK_BYTES = {"cpu": 2**21, "accelerator": 2**24}
_MIN_ROWS, _MAX_ROWS = 32, 256

# Consecutive blocks share one compiled loop, and with it the number of keys of the last
# of them: with n loops, a causal map costs 1 + 1 / n of its lower half. TPU's compiler takes
# some 20 seconds for each, with its gradient.
_MAX_STAGES = {"cpu": 8, "accelerator": 2}
_MIN_BLOCKS_PER_STAGE = 2

# The paper's kernels have 66. Compiling takes time in proportion.
_MAX_TAPS = 256


class _Stage(NamedTuple):
    """Blocks `first` to `end - 1`, which read the keys before `num_keys`."""

    first: int
    end: int
    num_keys: int


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The blocks of one call. Hashable, because it decides what is compiled."""

    block_rows: int
    halo: int
    examples_at_once: int
    stages: tuple[_Stage, ...]
    is_causal: bool
    options: Options


class _Example(NamedTuple):
    """What has no gradient, of one example. The mask's axes may have size 1."""

    mask: Bool[Array, "#N #T #S"] | None
    segment_ids: Int[Array, "T"] | None
    key_segment_ids: Int[Array, "S"] | None
    dropout_key: DropoutKey | None


def xla_chunked(args: Arguments) -> tuple[Float[Array, "B T N Hv"], None]:
    """Multi-token attention, row block by row block.

    Matrix products read the input dtype and accumulate in float32; logits,
    convolutions, mixing and softmax are float32 (float64 for float64 inputs).

    Returns:
      The output, and no attention weights.

    Raises:
      NotImplementedError: where attention weights are asked for, or a kernel has more
        taps than can be unrolled.
    """
    if args.return_weights:
        raise NotImplementedError("it never has the whole map; 'xla' returns attention weights")
    for name in ("pre_kq_kernel", "post_kq_kernel"):
        size = np.shape(getattr(args, name))[1:]
        if math.prod(size) > _MAX_TAPS:
            raise NotImplementedError(
                f"{name} of {size[0]} x {size[1]} taps: the compiler takes each on its own, so at "
                f"most {_MAX_TAPS}; 'xla' has no such limit"
            )
    accumulate = jnp.promote_types(args.query.dtype, jnp.float32)

    def heads_first(x: Array) -> Array:
        return x.astype(accumulate).transpose(0, 2, 1, 3)

    def columns(x: Array) -> Array:
        return x.astype(accumulate).transpose(0, 2, 3, 1)

    def kernel(x: Array | None) -> Array | None:
        # Of a kernel that is a constant of the program, XLA's CPU compiler folds more than it
        # may: with jax 0.10 (not 0.12) gradients of many outputs at once come out wrong.
        return None if x is None else jax.lax.optimization_barrier(x.astype(accumulate))

    inputs = Inputs(
        query=heads_first(args.query),
        key=columns(args.key),
        value=columns(args.value),
        pre_kq_kernel=kernel(args.pre_kq_kernel),
        pre_head_kernel=kernel(args.pre_head_kernel),
        post_kq_kernel=kernel(args.post_kq_kernel),
        post_head_kernel=kernel(args.post_head_kernel),
        scale=jnp.asarray(args.logit_scale, accumulate),
    )
    batch = args.query.shape[0]
    key_segment_ids = args.segment_ids if args.key_segment_ids is None else args.key_segment_ids
    mask = args.mask
    if mask is not None and mask.shape[0] == 1:
        mask = jnp.broadcast_to(mask, (batch, *mask.shape[1:]))
    examples = _Example(
        mask,
        args.segment_ids,
        key_segment_ids,
        None if args.dropout_key is None else jax.random.split(args.dropout_key, batch),
    )
    out = _attend(_plan(args), inputs, examples, jnp.asarray(args.query_offset, jnp.int32))
    return keep(out.transpose(0, 2, 1, 3).astype(args.output_dtype)), None


def _plan(args: Arguments) -> _Plan:
    batch, query_length, num_heads, _ = args.query.shape
    on_cpu = target_platform() == "cpu"
    block_bytes = _BLOCK_BYTES[_processor()]
    row_bytes = 4 * num_heads * args.key.shape[1]
    rows = min(max(block_bytes // row_bytes // 8 * 8, _MIN_ROWS), _MAX_ROWS, query_length)
    return _Plan(
        block_rows=rows,
        halo=halo(args.pre_kq_kernel) + halo(args.post_kq_kernel),
        examples_at_once=max(1, block_bytes // (row_bytes * rows)) if on_cpu else batch,
        stages=_stages(args, rows),
        is_causal=args.is_causal,
        options=Options(args.key_padding, args.dropout_rate, args.query.dtype),
    )


def _processor() -> str:
    return "cpu" if target_platform() == "cpu" else "accelerator"


def _stages(args: Arguments, rows: int) -> tuple[_Stage, ...]:
    num_keys = args.key.shape[1]
    num_blocks = -(-args.query.shape[1] // rows)
    if not args.is_causal or not isinstance(args.query_offset, int):
        return (_Stage(0, num_blocks, num_keys),)
    count = max(_MIN_BLOCKS_PER_STAGE, -(-num_blocks // _MAX_STAGES[_processor()]))
    stages = []
    for first in range(0, num_blocks, count):
        end = min(first + count, num_blocks)
        # No row of a block, nor of its halo, sees a key behind the block's last row.
        visible = min(max(end * rows + args.query_offset, 1), num_keys)
        stages.append(_Stage(first, end, visible))
    return tuple(stages)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan, inputs: Inputs, examples: _Example, offset: ArrayLike
) -> Float[Array, "B N T Hv"]:
    """Output of every example; queries, keys and values have a batch axis."""

    def one(query: Array, key: Array, value: Array, example: _Example) -> Array:
        own = inputs._replace(query=query, key=key, value=value)
        return _attend_example(plan, own, example, offset)

    return _over_examples(plan, one, inputs.query, inputs.key, inputs.value, examples)


def _attend_forward(
    plan: _Plan, inputs: Inputs, examples: _Example, offset: ArrayLike
) -> tuple[Array, tuple[Inputs, _Example, ArrayLike]]:
    return _attend(plan, inputs, examples, offset), (inputs, examples, offset)


def _attend_backward(
    plan: _Plan, residuals: tuple[Inputs, _Example, ArrayLike], dout: Array
) -> tuple[Inputs, None, None]:
    inputs, examples, offset = residuals

    def one(query: Array, key: Array, value: Array, example: _Example, dout: Array) -> Inputs:
        own = inputs._replace(query=query, key=key, value=value)
        return _example_gradient(plan, own, example, offset, dout)

    gradient = _over_examples(plan, one, inputs.query, inputs.key, inputs.value, examples, dout)
    shared = jax.tree.map(lambda x: jnp.sum(x, axis=0), gradient)
    batched = {"query": gradient.query, "key": gradient.key, "value": gradient.value}
    return shared._replace(**batched), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _over_examples(plan: _Plan, function: Callable[..., Any], *batched: Any) -> Any:
    if plan.examples_at_once >= len(jax.tree.leaves(batched)[0]):
        return jax.vmap(function)(*batched)
    # A batch size of 1 would cost an axis of size 1 everywhere.
    at_once = plan.examples_at_once if plan.examples_at_once > 1 else None
    return lax.map(lambda example: function(*example), batched, batch_size=at_once)


def _attend_example(plan: _Plan, inputs: Inputs, example: _Example, offset: ArrayLike) -> Array:
    outs = []
    rows = _Rows(plan, inputs, example, offset)
    for stage in plan.stages:

        def step(_: None, index: Array, stage: _Stage = stage) -> tuple[None, Array]:
            return None, rows.attend(rows.inputs(stage, index), stage, index)

        _, out = lax.scan(step, None, jnp.arange(stage.first, stage.end))
        outs.append(out.transpose(1, 0, 2, 3).reshape(out.shape[1], -1, out.shape[3]))
    return jnp.concatenate(outs, axis=1)[:, : inputs.query.shape[1]]


def _example_gradient(
    plan: _Plan, inputs: Inputs, example: _Example, offset: ArrayLike, dout: Array
) -> Inputs:
    rows = _Rows(plan, inputs, example, offset)
    num_rows = plan.block_rows * plan.stages[-1].end
    dout = jnp.pad(dout, ((0, 0), (0, num_rows - dout.shape[1]), (0, 0)))
    total = jax.tree.map(jnp.zeros_like, inputs._replace(query=rows.query))
    for stage in plan.stages:

        def step(total: Inputs, index: Array, stage: _Stage = stage) -> tuple[Inputs, None]:
            _, pullback = jax.vjp(
                lambda inputs: rows.attend(inputs, stage, index), rows.inputs(stage, index)
            )
            start = index * plan.block_rows
            (own,) = pullback(lax.dynamic_slice_in_dim(dout, start, plan.block_rows, axis=1))
            # Rows of the halo belong to the block before as well: their gradients add up.
            part = total._replace(query=rows.cut(total.query, index, axis=1))
            summed = jax.tree.map(jnp.add, part, own)
            query = lax.dynamic_update_slice_in_dim(total.query, summed.query, start, axis=1)
            return summed._replace(query=query), None

        seen = slice(0, stage.num_keys)
        part = total._replace(key=total.key[..., seen], value=total.value[..., seen])
        part, _ = lax.scan(step, part, jnp.arange(stage.first, stage.end))
        total = part._replace(
            key=total.key.at[..., seen].set(part.key),
            value=total.value.at[..., seen].set(part.value),
        )
    return total._replace(query=total.query[:, plan.halo : plan.halo + inputs.query.shape[1]])


class _Rows:
    """Cuts blocks of rows, with their halo, out of one example."""

    def __init__(self, plan: _Plan, inputs: Inputs, example: _Example, offset: ArrayLike):
        self._plan = plan
        self._inputs = inputs
        self._example = example
        self._offset = offset
        self._length = inputs.query.shape[1]
        self.query = self._padded(inputs.query, axis=1)

    def _padded(self, x: Array, axis: int) -> Array:
        """The halo of the first block before the rows, and the rest of the last behind."""
        behind = self._plan.stages[-1].end * self._plan.block_rows - self._length
        widths = [(0, 0)] * x.ndim
        widths[axis] = (self._plan.halo, behind)
        return jnp.pad(x, widths)

    def cut(self, padded: Array, index: Array, axis: int) -> Array:
        """The rows of block `index`, halo included, of an array padded like `query`."""
        start = index * self._plan.block_rows
        size = self._plan.block_rows + self._plan.halo
        return lax.dynamic_slice_in_dim(padded, start, size, axis)

    def inputs(self, stage: _Stage, index: Array) -> Inputs:
        """What block `index` reads."""
        return self._inputs._replace(
            query=self.cut(self.query, index, axis=1),
            key=self._inputs.key[..., : stage.num_keys],
            value=self._inputs.value[..., : stage.num_keys],
        )

    def attend(self, inputs: Inputs, stage: _Stage, index: Array) -> Array:
        """The output of block `index`."""
        example, plan = self._example, self._plan
        positions = index * plan.block_rows - plan.halo + jnp.arange(plan.block_rows + plan.halo)
        exists = (positions >= 0) & (positions < self._length)
        allowed = jnp.broadcast_to(exists[:, None], (len(positions), stage.num_keys))
        if plan.is_causal:
            allowed &= jnp.arange(stage.num_keys) <= positions[:, None] + self._offset
        segment_ids = None
        if example.segment_ids is not None and example.key_segment_ids is not None:
            segment_ids = self.cut(self._padded(example.segment_ids, axis=0), index, axis=0)
            allowed &= segment_ids[:, None] == example.key_segment_ids[: stage.num_keys]
        allowed = allowed[None]
        if example.mask is not None:
            mask = example.mask[..., : stage.num_keys]
            if mask.shape[1] > 1:
                mask = self.cut(self._padded(mask, axis=1), index, axis=1)
            allowed &= mask
        key = example.dropout_key
        key = None if key is None else jax.random.fold_in(key, index)
        return attend_row_block(inputs, allowed, segment_ids, key, plan.options)
