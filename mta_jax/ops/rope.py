"""Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864)."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from mta_jax.typing import Array, Float, Int

RopeLayout = Literal["interleaved", "half_split"]
"""Which two features turn together: neighbours (2h, 2h + 1), as in the paper's
code and Meta's Llama, or (h, h + H/2), as in Hugging Face Llama weights."""

RopeScalingKind = Literal["none", "linear", "llama3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the rotary embedding of a trained model was stretched to longer texts."""

    kind: RopeScalingKind = "none"
    """none; linear: every wavelength times the factor (https://arxiv.org/abs/2306.15595);
    llama3: the long ones times the factor, the short ones as they are, those between in
    part, as Llama 3.1 has it."""

    factor: float = 1.0
    """How much longer the texts are."""

    low_frequency_factor: float = 1.0
    """llama3: wavelengths above original_length by this are long."""

    high_frequency_factor: float = 4.0
    """llama3: wavelengths below original_length by this are short."""

    original_length: int = 8192
    """llama3: length of the texts before."""

    def apply(self, frequencies: Float[Array, " half"]) -> Float[Array, " half"]:
        """The frequencies of the stretched embedding."""
        if self.kind == "none":
            return frequencies
        if self.kind == "linear":
            return frequencies / self.factor
        turns = self.original_length * frequencies / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        return frequencies * (kept + (1.0 - kept) / self.factor)


def apply_rope(
    x: Float[Array, "B T N H"],
    positions: Int[Array, "B T"],
    *,
    theta: float = 10_000.0,
    layout: RopeLayout = "interleaved",
    scaling: RopeScaling | None = None,
) -> Float[Array, "B T N H"]:
    """Turns each pair of features by ``position * theta ** (-2 h / H)``.

    Arithmetic is float32 whatever the dtype of `x`; the result has `x`'s dtype.

    Args:
      x: queries or keys; H must be even.
      positions: position of each token inside its document.
      theta: base of the wavelengths.
      layout: which features form a pair.
      scaling: changes the wavelengths; None leaves them.

    Raises:
      ValueError: for an odd H or an unknown layout.

    Example:
      >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
      >>> y = apply_rope(x, positions=jnp.array([[1]]))  # a turn by one radian
      >>> [round(float(feature), 4) for feature in y[0, 0, 0]]
      [0.5403, 0.8415]
    """
    head_size = x.shape[-1]
    if head_size % 2:
        raise ValueError(f"head size {head_size}: rotary embedding needs an even head size")
    # Float64 inputs keep their precision; everything smaller is done in float32.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=dtype) / head_size)
    if scaling is not None:
        frequencies = scaling.apply(frequencies)
    angles = positions[:, :, None, None].astype(dtype) * frequencies  # [B, T, 1, H/2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)

    if layout == "interleaved":
        pairs = x.astype(dtype).reshape(*x.shape[:-1], head_size // 2, 2)
        first, second = pairs[..., 0], pairs[..., 1]
    elif layout == "half_split":
        first, second = jnp.split(x.astype(dtype), 2, axis=-1)
    else:
        raise ValueError(f"rope layout {layout!r}: must be 'interleaved' or 'half_split'")

    turned = (first * cos - second * sin, first * sin + second * cos)
    if layout == "interleaved":
        return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
