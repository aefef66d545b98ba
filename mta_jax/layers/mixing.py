"""The two mixing kernels of multi-token attention as modules."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from mta_jax.layers import initializers
from mta_jax.layers.initializers import KernelInit
from mta_jax.ops import head_mixing, key_query_convolution
from mta_jax.typing import Array, DTypeLike, Float, Int, KeyPadding

PLACES = ("pre_kq", "pre_head", "post_kq", "post_head")
"""Where attention maps are mixed, in the order in which they are."""


class KeyQueryConvolution(nnx.Module):
    """One learnable Cq x Ck kernel per head over an attention map (paper section 3.1).

    Args:
      num_heads: N.
      kernel_size: (Cq, Ck): this and Cq - 1 earlier queries; Ck keys.
      key_padding: where the kernel may reach on the key axis.
      kernel_init: how the kernel starts.
      param_dtype: dtype of the kernel.
      rngs: source of the `params` key.

    Raises:
      ValueError: for sizes below 1, or an even Ck with padding "both".

    Example:
      >>> convolution = KeyQueryConvolution(2, (6, 11), rngs=nnx.Rngs(0))
      >>> convolution.kernel.shape
      (2, 6, 11)
      >>> maps = jnp.tril(jnp.ones((1, 2, 16, 16)))
      >>> bool(jnp.allclose(convolution(maps), maps))  # it starts as the identity
      True
    """

    def __init__(
        self,
        num_heads: int,
        kernel_size: tuple[int, int],
        *,
        key_padding: KeyPadding = "both",
        kernel_init: KernelInit = "identity",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if min(kernel_size) < 1:
            raise ValueError(f"key-query kernel size {tuple(kernel_size)}: both must be at least 1")
        self.key_padding = key_padding
        self.kernel = nnx.Param(
            initializers.kq_kernel(
                kernel_init,
                (num_heads, *kernel_size),
                key_padding=key_padding,
                key=rngs.params(),
                dtype=param_dtype,
            )
        )

    def __call__(
        self, logits: Float[Array, "B N T S"], *, segment_ids: Int[Array, "B T"] | None = None
    ) -> Float[Array, "B N T S"]:
        """Convolves a map that is zero wherever a query may not attend."""
        return key_query_convolution.key_query_convolution(
            logits, self.kernel[...], key_padding=self.key_padding, segment_ids=segment_ids
        )

    def distance_from_identity(self) -> Float[Array, ""]:
        """Norm of the difference to the identity kernel by the latter's, mean over heads."""
        kernel = self.kernel[...]
        identity = initializers.identity_kq_kernel(
            kernel.shape, key_padding=self.key_padding, dtype=kernel.dtype
        )
        return _relative_distance(kernel, identity)


class HeadMixing(nnx.Module):
    """A learnable mixture of attention maps inside groups of heads (paper section 3.2).

    Args:
      num_heads: N.
      group_size: Ch consecutive heads per group; must divide N.
      kernel_init: how the kernel starts.
      param_dtype: dtype of the kernel.
      rngs: source of the `params` key.

    Raises:
      ValueError: where `group_size` does not divide `num_heads`.

    Example:
      >>> mixing = HeadMixing(4, group_size=2, rngs=nnx.Rngs(0))
      >>> mixing.kernel.shape
      (2, 2, 2)
      >>> float(mixing.distance_from_identity())
      0.0
    """

    def __init__(
        self,
        num_heads: int,
        group_size: int,
        *,
        kernel_init: KernelInit = "identity",
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if group_size < 1 or num_heads % group_size:
            raise ValueError(
                f"head kernel size {group_size} with {num_heads} heads: must divide the heads"
            )
        self.kernel = nnx.Param(
            initializers.head_kernel(
                kernel_init,
                (num_heads // group_size, group_size, group_size),
                key=rngs.params(),
                dtype=param_dtype,
            )
        )

    def __call__(self, logits: Float[Array, "B N T S"]) -> Float[Array, "B N T S"]:
        """Mixes the maps."""
        return head_mixing.head_mixing(logits, self.kernel[...])

    def distance_from_identity(self) -> Float[Array, ""]:
        """Norm of the difference to the identity matrix by the latter's, mean over groups."""
        kernel = self.kernel[...]
        identity = initializers.identity_head_kernel(kernel.shape, dtype=kernel.dtype)
        return _relative_distance(kernel, identity)


def mixing_steps(
    num_heads: int,
    *,
    pre_kq_kernel_size: tuple[int, int] | None,
    pre_head_kernel_size: int | Literal["all"] | None,
    post_kq_kernel_size: tuple[int, int] | None,
    post_head_kernel_size: int | Literal["all"] | None,
    key_padding: KeyPadding,
    mixing_init: KernelInit,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> dict[str, KeyQueryConvolution | HeadMixing | None]:
    """The mixing steps of an attention by place, None where there is none.

    Places are ``pre_kq``, ``pre_head``, ``post_kq`` and ``post_head``. Arguments as of
    `MultiTokenAttention`.
    """

    def convolution(size: tuple[int, int] | None) -> KeyQueryConvolution | None:
        if size is None:
            return None
        return KeyQueryConvolution(
            num_heads,
            size,
            key_padding=key_padding,
            kernel_init=mixing_init,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def mixing(size: int | Literal["all"] | None) -> HeadMixing | None:
        if size is None:
            return None
        return HeadMixing(
            num_heads,
            num_heads if size == "all" else size,
            kernel_init=mixing_init,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    return {
        "pre_kq": convolution(pre_kq_kernel_size),
        "pre_head": mixing(pre_head_kernel_size),
        "post_kq": convolution(post_kq_kernel_size),
        "post_head": mixing(post_head_kernel_size),
    }


def kernels_of(module: nnx.Module) -> dict[str, Any]:
    """The kernels of a module that has `mixing_steps`, as the op names them."""
    steps = {place: getattr(module, place) for place in PLACES}
    return {
        f"{place}_kernel": None if step is None else step.kernel[...]
        for place, step in steps.items()
    }


def _relative_distance(
    kernel: Float[Array, "M rows columns"], identity: Float[Array, "M rows columns"]
) -> Float[Array, ""]:
    """Frobenius norm of the difference by that of the identity, mean over the first axis."""

    def norm(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2)))

    return jnp.mean(norm(kernel - identity) / norm(identity))
