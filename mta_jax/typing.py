"""Axis legend and array types used in every signature of this package.

====  ==========================================================
B     batch
T     query positions
S     key positions
N     query heads
K     key/value heads
G     query heads per key/value head, ``N // K``
H     head size of queries and keys (``Hv`` of values)
D     model width
F     feed-forward width
V     vocabulary
L     layers
Cq    query extent of a key-query kernel
Ck    key extent of a key-query kernel
Ch    heads per mixing group
M     mixing groups, ``N // Ch``
====  ==========================================================

Einsum strings use the same letters.
"""

from typing import Literal

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped, UInt32

KeyPadding = Literal["both", "left", "right"]
"""Where zeros are added on the key axis before a key-query convolution."""

DropoutKey = PRNGKeyArray | UInt32[Array, "2"]
"""A typed (`jax.random.key`) or a raw (`jax.random.PRNGKey`) random key."""

__all__ = ["Array", "Bool", "DTypeLike", "DropoutKey", "Float", "Int", "KeyPadding", "Shaped"]
