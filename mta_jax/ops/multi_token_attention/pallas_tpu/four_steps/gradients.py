"""The gradients of the weights of a tile, before any step that follows the softmax."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.convolution import (
    put_margins,
    put_rows,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.logits import (
    Tile,
    convolve_heads,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import Place
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import put_head, staggered
from mta_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightGradients:
    """What the gradients of weights are computed from, and memory for them.

    Args:
      tile: its `seen` is written.
      value: tile of all heads, see `Plan.columns_of`.
      dout: window of all heads, sorted.
      post_transposed: the matrix that mixes gradients of mixed weights.
      source: for gradients of convolved weights, see `source_shape`.
      dmixed: for gradients of mixed weights, ``[stacks, group, rows, columns]``.
      dweights: for gradients of weights, likewise.
    """

    tile: Tile
    value: Ref
    dout: Ref
    post_transposed: Any
    source: Ref
    dmixed: Ref
    dweights: Ref

    def gather(self, place: Place) -> None:
        """Writes all that `of_stack` reads."""
        self.multiply(place)
        self.convolve(place)

    def multiply(self, place: Place) -> None:
        """Writes the gradients of mixed weights, and those of convolved ones if there are any."""
        tile, plan = self.tile, self.tile.plan
        taps = plan.post_taps
        goes_straight = taps is not None and self.post_transposed is None

        def multiply(heads: list[Array]) -> None:
            products = [
                plan.dot(self.dout[n], plan.columns_of(self.value, plan.kv_head(n)), (1, 1))
                for n in heads
            ]
            for n, x in zip(heads, products, strict=True):
                if goes_straight:
                    put_rows(self.source, n, tile.hide(x, place))
                else:
                    put_head(self.dmixed, n, plan.all_columns, x)

        plan.for_each(plan.group, multiply)
        if taps is not None and self.post_transposed is not None:

            def put_stack(g: Array, x: Array) -> None:
                by_head = x.reshape(plan.group, plan.rows, plan.columns)
                if place.cuts_future:
                    by_head *= tile.seen[pl.ds(g * plan.rows, plan.rows)][None]
                plan.put_stack(self.source, g, by_head)

            plan.for_each(
                plan.stacks,
                lambda indices: staggered(indices, self._mixed, put_stack),
            )

    def convolve(self, place: Place) -> None:
        """Writes the gradients of weights, if they are convolved; after `multiply`."""
        tile, plan = self.tile, self.tile.plan
        taps = plan.post_taps
        if taps is None:
            return

        def put_all_margins(heads: list[Array]) -> None:
            for n in heads:
                put_margins(taps, self.source, n, transposed=True)

        plan.for_each(plan.group, put_all_margins)
        convolve_heads(
            tile, self.source, tile.kernels.post_bands, self.dweights, place, transposed=True
        )

    def of_stack(self, g: Array) -> Float[Array, "stack columns"]:
        """The gradients of the weights of a stack; after `gather`."""
        plan = self.tile.plan
        if plan.post_taps is not None:
            return self.dweights[g].reshape(plan.stack, -1).astype(jnp.float32)
        if self.post_transposed is not None:
            return self._mixed(g)
        return self.dmixed[g].reshape(plan.stack, -1).astype(jnp.float32)

    def _mixed(self, g: Array) -> Array:
        plan = self.tile.plan
        return plan.dot(self.post_transposed[...], self.dmixed[g].reshape(plan.stack, -1), (1, 0))
