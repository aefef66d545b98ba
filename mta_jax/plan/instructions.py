"""Instructions of a compiled program, from its text: results, operands, layouts."""

import dataclasses
import math
import re

from mta_jax.plan.program_text import item_bytes

_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)(.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")
_OPERAND = re.compile(r"%([\w.-]+)")
_ARRAY = re.compile(
    r"\b(pred|[a-z]+\d+)[a-z\d]*\[([\d,]*)\]"  # dtype and shape
    r"(?:\{([\d,]*)(?::(?:T\(([\d,]+)\))?([^}]*))?\})?"  # order of dimensions, tile, and the rest
)
_CALLS = re.compile(r"\bcalls=%?([\w.-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """An array that an instruction results in.

    Attributes:
      dtype: in XLA's words.
      shape: its dimensions.
      bytes: as it is laid out: a tile that is filled in part counts whole.
      is_in_hbm: whether it lies in the memory of the device, and not in one on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: float
    is_in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: its name.
      opcode: what it does, in XLA's words.
      results: what it results in; of a tuple, all arrays in it.
      operands: names of what it takes; of a parameter, its number.
      attributes: the rest of the line.
      is_root: whether its result is that of the computation.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def calls(self) -> str | None:
        """The computation that is the inside of a fusion."""
        match = _CALLS.search(self.attributes)
        return match and match[1]

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from; empty where that is not noted."""
        match = _OP_NAME.search(self.attributes)
        return match[1] if match else ""


def instructions_of(lines: list[str]) -> dict[str, Instruction]:
    """The instructions of a computation by name, in order.

    Args:
      lines: of the computation, without its first.
    """
    found = {}
    for line in lines:
        if match := _INSTRUCTION.match(_COMMENT.sub("", line)):
            root, name, types, opcode, operands, attributes = match.groups()
            results = tuple(_array(array) for array in _ARRAY.finditer(types))
            names = tuple(_OPERAND.findall(operands)) or (operands,)
            found[name] = Instruction(name, opcode, results, names, attributes, bool(root))
    return found


def _array(match: re.Match[str]) -> Array:
    dtype, sizes, order, tile, rest = match.groups()
    shape = tuple(int(size) for size in sizes.split(",") if size)
    padded = list(shape)
    if order and tile:
        # Of the dimensions, the first of the order are next to each other in memory.
        minor_first = [int(dimension) for dimension in order.split(",")]
        tile_minor_first = [int(size) for size in tile.split(",")][::-1]
        for dimension, size in zip(minor_first, tile_minor_first, strict=False):
            padded[dimension] = -(-padded[dimension] // size) * size
    size_bytes = item_bytes(dtype) * math.prod(padded)
    return Array(dtype, shape, size_bytes, "S(" not in (rest or ""))
