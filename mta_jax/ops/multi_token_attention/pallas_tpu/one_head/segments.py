"""Documents of a packed row, in the layouts that vector registers want."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import KEY_HALO, WINDOW, Plan
from mta_jax.typing import Array, Int


@dataclasses.dataclass(frozen=True)
class SegmentLayouts:
    """The document of every position, three times."""

    columns: Int[Array, "B T lanes"]  # one position per row, the same in every lane
    row: Int[Array, "B 1 T"]  # one position per lane
    windows: Int[Array, "B blocks 1 window"]  # the keys that a block of LANES keys may reach


def segment_layouts(plan: Plan, segment_ids: Int[Array, "B T"]) -> SegmentLayouts:
    """Lays out the documents of `plan.length` positions."""
    shape = (plan.batch, plan.length)
    columns = jnp.broadcast_to(segment_ids[:, :, None], (*shape, LANES))
    starts = np.arange(0, plan.length, LANES)[:, None] - KEY_HALO
    # Positions outside the row hold zero keys, so their document does not matter.
    positions = np.clip(starts + np.arange(WINDOW), 0, plan.length - 1)
    return SegmentLayouts(columns, segment_ids[:, None], segment_ids[:, positions][:, :, None])
