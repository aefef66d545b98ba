"""Key-query and head kernels in the form in which the Pallas kernels use them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from mta_jax.ops.multi_token_attention.pallas_tpu.four_steps.plan import Plan, Taps
from mta_jax.ops.multi_token_attention.pallas_tpu.layout import LANES, Ref
from mta_jax.ops.multi_token_attention.pallas_tpu.stacks import stack_matrices
from mta_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernels:
    """Matrices of each program, or memory that holds them; None for steps that are left out.

    Bands are ``[programs, group, Cq, lanes, lanes]``, see `band_matrices`, and matrices
    ``[programs, stack, stack]``, see `stack_matrices`.
    """

    pre_bands: Any
    pre_matrix: Any
    post_bands: Any
    post_matrix: Any

    def given(self) -> list[Any]:
        """What there is, in the order of the fields."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return [value for value in values if value is not None]

    @classmethod
    def taken(cls, plan: Plan, refs: list[Ref]) -> "Kernels":
        """Takes from the front of `refs` what `given` has put there."""
        return cls(
            pre_bands=refs.pop(0) if plan.pre_taps else None,
            pre_matrix=refs.pop(0) if plan.mixes_logits else None,
            post_bands=refs.pop(0) if plan.post_taps else None,
            post_matrix=refs.pop(0) if plan.mixes_probs else None,
        )


def band_matrices(
    plan: Plan, taps: Taps, kq_kernel: Float[Array, "N Cq Ck"]
) -> Float[Array, "programs group Cq lanes lanes"]:
    """One matrix per head and query tap, (in, out), that convolves `LANES` keys."""
    position = np.arange(LANES)
    tap = position[:, None] - position + taps.before
    place = tap == np.arange(taps.keys)[:, None, None]
    kernel = kq_kernel.astype(jnp.float32)[..., None, None]
    bands = jnp.sum(jnp.where(place, kernel, 0), axis=2)
    return bands.reshape(plan.programs, plan.group, *bands.shape[1:])


def prepare(
    plan: Plan,
    pre_kq_kernel: Float[Array, "N Cq Ck"] | None,
    pre_head_kernel: Float[Array, "M Ch Ch"] | None,
    post_kq_kernel: Float[Array, "N Cq2 Ck2"] | None,
    post_head_kernel: Float[Array, "M2 Ch2 Ch2"] | None,
) -> Kernels:
    """The kernels of a call, without any scale, in float32."""

    def bands(taps: Taps | None, kernel: Array | None) -> Array | None:
        return None if taps is None or kernel is None else band_matrices(plan, taps, kernel)

    def matrix(kernel: Array | None) -> Array | None:
        return None if kernel is None else stack_matrices(plan, kernel)

    return Kernels(
        pre_bands=bands(plan.pre_taps, pre_kq_kernel),
        pre_matrix=matrix(pre_head_kernel),
        post_bands=bands(plan.post_taps, post_kq_kernel),
        post_matrix=matrix(post_head_kernel),
    )


def in_forward(plan: Plan, kernels: Kernels) -> Kernels:
    """As logits and weights are mixed by; the first matrix has the scale of the logits."""
    return Kernels(
        pre_bands=_narrow(plan, kernels.pre_bands),
        pre_matrix=_narrow(plan, kernels.pre_matrix, plan.log2_scale),
        post_bands=_narrow(plan, kernels.post_bands),
        post_matrix=_narrow(plan, kernels.post_matrix),
    )


def matrices_of_gradients(plan: Plan, kernels: Kernels) -> tuple[Array | None, Array | None]:
    """What mixes gradients of logits, with their scale, and those of weights."""
    return (
        _transposed(_narrow(plan, kernels.pre_matrix, plan.scale)),
        _transposed(_narrow(plan, kernels.post_matrix)),
    )


def _narrow(plan: Plan, x: Array | None, scale: float = 1.0) -> Array | None:
    return None if x is None else (x * scale).astype(plan.dtype)


def _transposed(x: Array | None) -> Array | None:
    return None if x is None else jnp.swapaxes(x, -1, -2)
