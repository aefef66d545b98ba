"""The mixed logits of a tile, which every kernel computes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from mta_jax.ops.masks import MASK_VALUE
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.convolution import (
    convolve,
    put_margins,
    put_rows,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.kernels import Kernels
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import Plan
from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.tiles import (
    Place,
    Position,
    allowed,
    owned_columns,
)
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import put_head
from mta_jax.typing import Array, Float

HIDDEN = float(np.asarray(MASK_VALUE, jnp.bfloat16))
"""Logit of a key that a query may not see, the same when it is kept in bfloat16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """What the logits of a tile are computed from, and memory for them.

    Args:
      plan: of the call.
      at: which one it is.
      query: window of all heads, sorted.
      key: tile of all heads, see `Plan.columns_of`.
      kernels: as the forward pass has them.
      documents: of rows and columns.
      source: for maps that are convolved, see `source_shape`.
      stacked: for convolved logits, ``[stacks, group, rows, columns]``.
      seen: for ones where a query may see a key, ``[ROWS, columns]``.
    """

    plan: Plan
    at: Position
    query: Ref
    key: Ref
    kernels: Kernels
    documents: tuple[Ref, Ref] | None
    source: Ref
    stacked: Ref
    seen: Ref

    def rows_of_documents(self, place: Place) -> Ref | None:
        """Documents of the rows, where a tile holds several."""
        return self.documents[0] if self.documents and place.cuts_documents else None

    def look(self, place: Place) -> None:
        """Writes `seen`, where there is anything that a query may not see."""
        if place.cuts_future:
            documents = self.documents if place.cuts_documents else None
            self.seen[...] = allowed(self.plan, self.at, documents).astype(jnp.float32)

    def hide(self, x: Float[Array, "rows columns"], place: Place) -> Array:
        """A map of one head, zeros where a query may not see a key."""
        return x * self.seen[...] if place.cuts_future else x

    def multiply(self, place: Place) -> None:
        """Writes the logits of all heads to `source`, or to `stacked`; after `look`."""
        plan = self.plan

        def multiply(heads: list[Array]) -> None:
            products = [
                plan.dot(self.query[n], plan.columns_of(self.key, plan.kv_head(n)), (1, 1))
                for n in heads
            ]
            for n, x in zip(heads, products, strict=True):
                if plan.pre_taps is None:
                    put_head(self.stacked, n, plan.all_columns, x)
                else:
                    put_rows(self.source, n, self.hide(x, place))
                    put_margins(plan.pre_taps, self.source, n)

        plan.for_each(plan.group, multiply)

    def convolve(self, place: Place) -> None:
        """Writes the convolved logits of all heads to `stacked`; after `multiply`."""
        if self.plan.pre_taps is not None:
            convolve_heads(self, self.source, self.kernels.pre_bands, self.stacked, place)

    def mixed(self, g: Array, place: Place) -> Float[Array, "stack columns"]:
        """Mixed logits of a stack, hidden where its heads have no weight; after `convolve`."""
        plan, matrix = self.plan, self.kernels.pre_matrix
        x = self.stacked[g].reshape(plan.stack, -1)
        if matrix is None:
            x = x.astype(jnp.float32) * plan.log2_scale
        else:
            x = plan.dot(matrix[...], x, (1, 0))
        if plan.keeps_logits:
            # As the forward pass keeps them: of other logits, weights would not add up to one.
            x = x.astype(plan.dtype).astype(jnp.float32)
        has_weight = owned_columns(plan, self.at, plan.rows)
        if place.cuts_future:
            has_weight &= self.seen[pl.ds(g * plan.rows, plan.rows)] > 0
        by_head = x.reshape(plan.group, plan.rows, plan.columns)
        return jnp.where(has_weight[None], by_head, HIDDEN).reshape(x.shape)


def convolve_heads(
    tile: Tile,
    source: Ref,
    bands: Any,
    stacked: Ref,
    place: Place,
    *,
    transposed: bool = False,
    hides: bool = False,
) -> None:
    """Convolves the maps of all heads, whose margins are written, into stacks.

    Args:
      tile: theirs.
      source: the maps.
      bands: of the logits or of the weights.
      stacked: where the result is written.
      place: of the tile.
      transposed: whether maps are gradients, which go the other way.
      hides: whether the result is zero where a query may not see a key.
    """
    plan = tile.plan
    taps = plan.pre_taps if bands is tile.kernels.pre_bands else plan.post_taps
    assert taps is not None

    def body(heads: list[Array]) -> None:
        maps = [
            convolve(
                plan,
                taps,
                source,
                n,
                bands,
                transposed=transposed,
                documents=tile.rows_of_documents(place),
            )
            for n in heads
        ]
        for n, x in zip(heads, maps, strict=True):
            put_head(stacked, n, plan.all_columns, tile.hide(x, place) if hides else x)

    plan.for_each(plan.group, body, at_once=place.heads_at_once)
