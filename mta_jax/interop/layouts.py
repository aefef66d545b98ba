"""How the axes of one of our arrays lie in another library's tensor."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """A permutation of axes and a reshape: nothing is computed, so that both ways are exact.

    Attributes:
      axes: our axes in their order.
      groups: for each of their axes, those of the permuted ones that it is made of, as
        numbers of consecutive ones; 0 for an axis of length 1 that we do not have.
    """

    axes: tuple[int, ...]
    groups: tuple[int, ...]

    def their_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """Shape of their tensor for one of our shapes."""
        lengths = [ours[axis] for axis in self.axes]
        ends = np.cumsum(self.groups)
        return tuple(
            math.prod(lengths[end - size : end])
            for end, size in zip(ends, self.groups, strict=True)
        )

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Their tensor of our array."""
        return array.transpose(self.axes).reshape(self.their_shape(array.shape))

    def to_ours(self, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Our array, of a shape, of their tensor."""
        permuted = [shape[axis] for axis in self.axes]
        return tensor.reshape(permuted).transpose(np.argsort(self.axes))


VECTOR = Layout((0,), (1,))
"""[D], a norm's weight."""

MATRIX = Layout((0, 1), (1, 1))
"""[V, D], an embedding."""

LINEAR = Layout((1, 0), (1, 1))
"""Ours [in, out], theirs [out, in]."""

HEADS_IN = Layout((1, 2, 0), (2, 1))
"""Ours [D, N, H], theirs [N H, D]: a projection to heads."""

HEADS_OUT = Layout((2, 0, 1), (1, 2))
"""Ours [N, H, D], theirs [D, N H]: the projection of all heads."""

HEADS_BIAS = Layout((0, 1), (2,))
"""Ours [N, H], theirs [N H]."""

KEY_QUERY_KERNEL = Layout((0, 1, 2), (1, 0, 1, 1))
"""Ours [N, Cq, Ck], theirs [N, 1, Cq, Ck], both cross-correlations."""

HEAD_KERNEL = Layout((0, 1, 2), (1, 1, 1))
"""[M, Ch, Ch] as (group, in, out), theirs too."""

HEAD_LINEAR = Layout((0, 2, 1), (2, 1))
"""Ours [1, in, out], theirs [out, in] over all heads."""
