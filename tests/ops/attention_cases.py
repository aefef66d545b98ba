"""Calls of `multi_token_attention` that tests draw arrays for."""

import dataclasses
import zlib
from typing import Any, Literal

import numpy as np
import pytest

# Errors are taken over several draws together: for a kernel of four elements one
# draw is a roll of the dice.
SEEDS = range(5)

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Shapes and options of one call, from which its arrays are drawn.

    `restriction` names the mask or the packed documents:

    - "padding": batch element 0 hides its first 3 keys, so that the first rows of a
      causal call see nothing; the other elements hide their last 2.
    - "per_head": each head hides keys at random, but none from its own position.
    - "packed": documents side by side, with other borders in each batch element.
    - "interleaved": documents take turns at random.
    """

    batch: int = 2
    query_length: int
    key_length: int | None = None
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_size: int = 8
    value_size: int | None = None
    pre_kq: tuple[int, int] | None = None
    pre_head: int | None = None
    post_kq: tuple[int, int] | None = None
    post_head: int | None = None
    key_padding: Literal["both", "left", "right"] = "both"
    is_causal: bool = True
    query_offset: int = 0
    restriction: Literal["padding", "per_head", "packed", "interleaved"] | None = None

    def __str__(self) -> str:
        parts = [f"B{self.batch}-T{self.query_length}"]
        if self.key_length:
            parts.append(f"S{self.key_length}")
        parts.append(f"N{self.num_heads}")
        if self.num_kv_heads:
            parts.append(f"K{self.num_kv_heads}")
        parts.append(f"H{self.head_size}")
        if self.value_size:
            parts.append(f"Hv{self.value_size}")
        for side in ("pre", "post"):
            kernel_size, group_size = getattr(self, f"{side}_kq"), getattr(self, f"{side}_head")
            if kernel_size or group_size:
                taps = "x".join(str(size) for size in kernel_size or ())
                parts.append(side + taps + (f"h{group_size}" if group_size else ""))
        if self.key_padding != "both":
            parts.append(self.key_padding)
        if not self.is_causal:
            parts.append("bidirectional")
        if self.query_offset:
            parts.append(f"offset{self.query_offset}")
        if self.restriction:
            parts.append(self.restriction)
        return "-".join(parts)

    @property
    def num_keys(self) -> int:
        return self.key_length or self.query_length

    @property
    def features(self) -> set[str]:
        """The `supports_*` flags that this case needs."""
        needed = {
            "bidirectional": not self.is_causal,
            "no_convolution": self.pre_kq is None,
            "post_convolution": self.post_kq is not None,
            "pre_head_mixing": self.pre_head is not None,
            "unequal_lengths": self.key_length is not None,
            "value_size": self.value_size is not None,
            "one_sided_padding": self.key_padding != "both",
            "mask": self.restriction in ("padding", "per_head"),
            "segments": self.restriction in ("packed", "interleaved"),
        }
        return {name for name, is_needed in needed.items() if is_needed}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are no arrays."""
        return {
            "is_causal": self.is_causal,
            "query_offset": self.query_offset,
            "key_padding": self.key_padding,
        }

    def arrays(self, seed: int = 0) -> Arrays:
        """The arguments with gradients, in float32, scaled so that logits are near 1."""
        rng = self._rng(seed)

        def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
            return (scale * rng.normal(size=shape)).astype(np.float32)

        num_kv_heads = self.num_kv_heads or self.num_heads
        value_size = self.value_size or self.head_size
        arrays = {
            "query": normal(self.batch, self.query_length, self.num_heads, self.head_size),
            "key": normal(self.batch, self.num_keys, num_kv_heads, self.head_size),
            "value": normal(self.batch, self.num_keys, num_kv_heads, value_size),
        }
        for side in ("pre", "post"):
            if size := getattr(self, f"{side}_kq"):
                scale = (size[0] * size[1]) ** -0.5
                arrays[f"{side}_kq_kernel"] = normal(self.num_heads, *size, scale=scale)
            if size := getattr(self, f"{side}_head"):
                groups = self.num_heads // size
                arrays[f"{side}_head_kernel"] = normal(groups, size, size, scale=size**-0.5)
        return arrays

    def cotangent(self, seed: int = 0) -> np.ndarray:
        value_size = self.value_size or self.head_size
        shape = (self.batch, self.query_length, self.num_heads, value_size)
        return self._rng(seed, "cotangent").normal(size=shape).astype(np.float32)

    def restrictions(self) -> Arrays:
        """The mask and segment arguments."""
        rng = self._rng(0, "restrictions")
        key_positions = np.arange(self.num_keys)
        positions = np.arange(self.query_length) + self.query_offset
        if self.restriction == "padding":
            mask = np.ones((self.batch, 1, 1, self.num_keys), bool)
            mask[0, ..., :3] = False
            mask[1:, ..., -2:] = False
            return {"mask": mask}
        if self.restriction == "per_head":
            shape = (1, self.num_heads, self.query_length, self.num_keys)
            return {"mask": (rng.random(shape) < 0.6) | (positions[:, None] == key_positions)}
        if self.restriction == "packed":
            borders = rng.integers(1, self.num_keys, size=(self.batch, 3, 1))
            key_ids = (key_positions >= borders).sum(axis=1)
        elif self.restriction == "interleaved":
            key_ids = rng.integers(0, 3, size=(self.batch, self.num_keys))
        else:
            return {}
        key_ids = key_ids.astype(np.int32)
        if self.key_length is None:
            return {"segment_ids": key_ids}
        ids = key_ids[:, np.clip(positions, 0, self.num_keys - 1)]
        return {"segment_ids": ids, "key_segment_ids": key_ids}

    def full_restrictions(self) -> Arrays:
        """Causality and restrictions as one full mask and full segment ids.

        All cases of one shape pass the same arguments this way and share a compiled
        reference, and causality is said a second time, in other words.
        """
        given = self.restrictions()
        mask = np.ones((self.batch, self.num_heads, self.query_length, self.num_keys), bool)
        if self.is_causal:
            last_key = np.arange(self.query_length) + self.query_offset
            mask &= np.arange(self.num_keys) <= last_key[:, None]
        mask &= given.get("mask", True)
        ids = given.get("segment_ids", np.zeros((self.batch, self.query_length), np.int32))
        same_length = self.key_length is None
        key_ids = ids if same_length else np.zeros((self.batch, self.num_keys), np.int32)
        key_ids = given.get("key_segment_ids", key_ids)
        return {"mask": mask, "segment_ids": ids, "key_segment_ids": key_ids}

    def allowed(self) -> np.ndarray:
        """True where a query may attend, [B, N, T, S]."""
        full = self.full_restrictions()
        same_segment = full["segment_ids"][:, :, None] == full["key_segment_ids"][:, None, :]
        return full["mask"] & same_segment[:, None]

    def _rng(self, seed: int, purpose: str = "arrays") -> np.random.Generator:
        return np.random.default_rng([seed, zlib.crc32(f"{self} {purpose}".encode())])


FULL = Case(
    query_length=63,
    num_kv_heads=2,
    head_size=32,
    pre_kq=(2, 9),
    pre_head=4,
    post_kq=(3, 5),
    post_head=2,
)
PACKED = dataclasses.replace(FULL, restriction="packed")
# As many keys as features: with one-hot values the output is the attention weights.
SQUARE = Case(
    query_length=16,
    num_kv_heads=2,
    head_size=16,
    pre_kq=(2, 3),
    pre_head=4,
    post_kq=(3, 3),
    post_head=2,
)
SUFFIX = Case(
    query_length=7,
    key_length=63,
    num_kv_heads=1,
    pre_kq=(3, 3),
    pre_head=2,
    post_kq=(2, 3),
    post_head=2,
    query_offset=56,
)
CROSS = Case(
    query_length=63,
    key_length=7,
    value_size=5,
    pre_kq=(2, 4),
    post_kq=(2, 2),
    key_padding="left",
    is_causal=False,
)
CASES = (
    FULL,
    PACKED,
    dataclasses.replace(FULL, restriction="interleaved"),
    dataclasses.replace(FULL, restriction="padding"),
    dataclasses.replace(FULL, restriction="per_head"),
    dataclasses.replace(FULL, is_causal=False),
    SQUARE,
    SUFFIX,
    dataclasses.replace(SUFFIX, restriction="packed"),
    CROSS,
    dataclasses.replace(CROSS, is_causal=True, query_offset=-40),
    # Kernels larger than the map.
    Case(batch=1, query_length=7, num_heads=2, pre_kq=(6, 11), pre_head=2),
    Case(query_length=1, num_heads=2, pre_kq=(1, 1), pre_head=1, post_kq=(2, 3), post_head=2),
    Case(query_length=31, num_heads=2, pre_kq=(1, 2), post_kq=(2, 2), key_padding="right"),
    Case(query_length=111, num_heads=2, head_size=16, restriction="padding"),
)
CAUSAL_CASES = [case for case in CASES if case.is_causal and case.query_length > 1]
SEGMENT_CASES = [case for case in CASES if "segments" in case.features]
BLANK_ROW_CASES = [case for case in CASES if not case.allowed().any(axis=(1, 3)).all()]


_LONG = 1000


def parametrize_cases(*cases: Case) -> pytest.MarkDecorator:
    """A test for each; those that take a minute only where `slow` ones are asked for."""
    slow = pytest.mark.slow
    parameters = [
        pytest.param(case, id=str(case), marks=slow if case.query_length >= _LONG else ())
        for case in cases
    ]
    return pytest.mark.parametrize("case", parameters)


def identity_draw(case: Case, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Random inputs, and kernels that leave the map as it is."""
    arrays = case.arrays(seed)
    inputs = {name: arrays.pop(name) for name in ("query", "key", "value")}
    for name, kernel in arrays.items():
        kernel[:] = 0
        if "head" in name:
            kernel[:] = np.eye(kernel.shape[1])
        else:
            size = kernel.shape[2]
            kernel[:, -1, {"both": size // 2, "left": size - 1, "right": 0}[case.key_padding]] = 1
    return inputs, arrays
