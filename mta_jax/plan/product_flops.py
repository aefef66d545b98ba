"""FLOPs of matrix products in a compiled program.

TPU's compiler writes every matrix product as a convolution, with windows, padding and dilation
that keep most taps of the window off the array. Only those on it count, as in XLA's own analysis
(`HloCostAnalysis::HandleConvolution`): a multiply-add is 2.
"""

import math
import re
from collections.abc import Callable

from mta_jax.plan.instructions import Array, Instruction

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_GROUPS = {
    name: re.compile(rf"{name}=(\d+)") for name in ("feature_group_count", "batch_group_count")
}
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


def product_flops(instruction: Instruction, array_of: Callable[[str], Array]) -> int:
    """FLOPs of one run of an instruction; 0 where it is neither a product nor a convolution.

    Args:
      instruction: any.
      array_of: what another instruction of its computation results in, by name.
    """
    if instruction.opcode == "dot":
        contracted = _CONTRACTED.search(instruction.attributes)
        shape = array_of(instruction.operands[0]).shape
        sizes = [shape[int(n)] for n in contracted[1].split(",") if n] if contracted else []
        return 2 * math.prod(instruction.results[0].shape) * math.prod(sizes)
    if instruction.opcode != "convolution":
        return 0
    labels = _LABELS.search(instruction.attributes)
    assert labels is not None
    lhs, rhs = (array_of(name).shape for name in instruction.operands[:2])
    out = instruction.results[0].shape
    lhs_sizes, rhs_sizes, out_sizes = (
        dict(zip(label, shape, strict=True))
        for label, shape in zip(labels.groups(), (lhs, rhs, out), strict=True)
    )
    features = lhs_sizes["f"] // _group_count(instruction, "feature_group_count")
    batch = lhs_sizes["b"] // _group_count(instruction, "batch_group_count")
    taps = 1
    window = _window(instruction)
    for dimension in range(len(lhs) - 2):
        name = str(dimension)
        taps *= _valid_taps(
            lhs_sizes[name],
            rhs_sizes[name],
            out_sizes[name],
            {key: values[dimension] for key, values in window.items()},
        )
    return 2 * features * batch * rhs_sizes["o"] * taps


def _group_count(instruction: Instruction, name: str) -> int:
    match = _GROUPS[name].search(instruction.attributes)
    return int(match[1]) if match else 1


def _window(instruction: Instruction) -> dict[str, list[str]]:
    """What the window of a convolution is, by dimension."""
    match = _WINDOW.search(instruction.attributes)
    settings = (setting.partition("=") for setting in match[1].split()) if match else ()
    return {name: values.split("x") for name, _, values in settings}


def _valid_taps(lhs: int, rhs: int, out: int, window: dict[str, str]) -> int:
    """Taps along a dimension, over all places of the window, that read an element."""
    stride, lhs_dilation, rhs_dilation = (
        int(window.get(name, 1)) for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    before = int(window.get("pad", "0_0").partition("_")[0])
    last = (lhs - 1) * lhs_dilation
    count = 0
    for tap in range(rhs):
        # Places where this tap reads between the first element and the last.
        shift = tap * rhs_dilation - before
        first_place = max(0, -(shift // stride))
        last_place = min(out - 1, (last - shift) // stride)
        if lhs_dilation == 1:
            count += max(0, last_place - first_place + 1)
        else:
            places = range(first_place, last_place + 1)
            count += sum((place * stride + shift) % lhs_dilation == 0 for place in places)
    return count
