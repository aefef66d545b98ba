"""Tensors of another library's files as our parameters, and back."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from mta_jax.errors import UserError
from mta_jax.interop.names import Shapes, Table, shortened

DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


@runtime_checkable
class Tensors(Protocol):
    """Tensors in files, each read when it is asked for."""

    @property
    def where(self) -> str:
        """What they are read from, for messages."""

    def names(self) -> Iterable[str]:
        """Names of all."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""

    def dtype(self, name: str) -> str:
        """Dtype of one: float32, bfloat16, float16, or what else the file says."""

    def read(self, name: str) -> np.ndarray:
        """One of them.

        Raises:
          UserError: where its file is damaged.
        """


def check_tensors(
    tensors: Tensors, table: Table, shapes: Shapes, *, ignored: Iterable[str] = ()
) -> dict[str, str]:
    """Makes sure that tensors are those of a model, without reading them.

    Args:
      tensors: what there is.
      table: how the library calls our parameters.
      shapes: of our parameters, by name.
      ignored: names that need not be there and that are used for nothing.

    Returns:
      The dtype of each tensor by its name.

    Raises:
      UserError: where one is missing, unknown, or of another shape or dtype.
    """
    places = {name: table.place(name) for name in shapes}
    wanted = {place.name for place in places.values()}
    there = set(tensors.names())
    missing = [place.name for place in places.values() if place.name not in there]
    unknown = sorted(there - wanted - set(ignored))
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {shortened(missing)}")
    if unknown:
        problems.append(f"{len(unknown)} tensors have no place in the model: {shortened(unknown)}")
    if problems:
        raise UserError(f"{tensors.where}: {'; '.join(problems)}")
    for name, place in places.items():
        expected, found = place.layout.their_shape(shapes[name]), tensors.shape(place.name)
        if found != expected:
            raise UserError(
                f"{tensors.where}: tensor {place.name} has the shape {list(found)}: expected "
                f"{list(expected)} by the settings of the model"
            )
        if tensors.dtype(place.name) not in DTYPES:
            raise UserError(
                f"{tensors.where}: tensor {place.name} has the dtype {tensors.dtype(place.name)}: "
                f"expected {', '.join(DTYPES)}"
            )
    return {place.name: tensors.dtype(place.name) for place in places.values()}


def check_tied(tensors: Tensors, head: str, embedding: str, setting: str) -> None:
    """Makes sure that the output layer of tied weights, where there is one, is the embedding.

    Args:
      tensors: what there is.
      head: name of the output layer.
      embedding: name of the embedding.
      setting: that ties them, for messages.

    Raises:
      UserError: where it is another one.
    """
    if head in tensors.names() and not np.array_equal(tensors.read(head), tensors.read(embedding)):
        raise UserError(
            f"{tensors.where}: tensor {head} is another one than {embedding}, though {setting} is "
            "true"
        )


def read_parameters(tensors: Tensors, table: Table, shapes: Shapes) -> dict[str, np.ndarray]:
    """Our parameters by name, float32, from tensors that `check_tensors` found right.

    Raises:
      UserError: where one cannot be read, or holds what is no finite number.
    """
    arrays = {}
    for name, shape in shapes.items():
        place = table.place(name)
        tensor = tensors.read(place.name).astype(np.float32)
        # A changed bit of an exponent often shows so.
        if not np.isfinite(tensor).all():
            raise UserError(f"{tensors.where}: tensor {place.name} holds infinities or NaN")
        arrays[name] = np.ascontiguousarray(place.layout.to_ours(tensor, shape))
    return arrays


def their_tensors(
    arrays: Mapping[str, np.ndarray], table: Table, dtypes: Mapping[str, str], dtype: str
) -> dict[str, np.ndarray]:
    """The library's tensors by its names.

    Args:
      arrays: our parameters, float32.
      table: how the library calls them.
      dtypes: of some tensors, by the library's names.
      dtype: of the others.

    Raises:
      UserError: where a parameter has no name there, or does not fit into the dtype.
    """
    tensors = {}
    for name, array in arrays.items():
        place = table.place(name)
        kind = dtypes.get(place.name, dtype)
        # What is too large for float16 is looked for below.
        with np.errstate(over="ignore"):
            tensor = place.layout.to_theirs(np.asarray(array)).astype(DTYPES[kind])
        if kind == "float16" and not np.isfinite(tensor).all():
            raise UserError(f"tensor {place.name}: has values beyond float16; name another dtype")
        tensors[place.name] = np.ascontiguousarray(tensor)
    return tensors


def common_dtype(dtypes: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The dtype of most tensors, and those of the others by name."""
    common = Counter(dtypes.values()).most_common(1)[0][0]
    return common, {name: dtype for name, dtype in dtypes.items() if dtype != common}
