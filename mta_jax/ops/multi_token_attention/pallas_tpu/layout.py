"""What all kernels share: the shape of vector registers, and small helpers."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from mta_jax.typing import Array

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

Ref = Any
"""A reference to memory inside a kernel."""

LANES = 128
"""Width of a vector register and of one block of logits."""


def round_up(size: int, multiple: int) -> int:
    """The first multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def tile_size(length: int, largest: int) -> int:
    """The largest tile, of `largest`, half of it and so on, that does not pad too much.

    That is no more than an eighth beyond what tiles of `LANES` positions pad.
    """
    most = round_up(length, LANES) * 9 // 8
    while largest > LANES and round_up(length, largest) > most:
        largest //= 2
    return largest


def shared(head: Array, group: int) -> Array:
    """Which shared head a query head uses, for index maps."""
    # Not `//`, which in Python's rounding costs a dozen scalar instructions.
    return lax.div(head, np.int32(group))


def compiler_params(vmem_limit_bytes: int) -> pltpu.CompilerParams:
    """Of a kernel whose grid is batch, heads and steps, of which the steps come in their order."""
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=vmem_limit_bytes,
    )


def in_32_bits(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """For what calls kernels: JAX's 64-bit mode counts with integers that a TPU has not."""

    @functools.wraps(function)
    def called(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return called
