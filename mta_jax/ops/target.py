"""The device that a program is written for."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class Target(Protocol):
    """What is asked of a device, so that one may be described that is not there."""

    platform: str
    device_kind: str


_target: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


def target_platform() -> str:
    """The platform ("cpu", "gpu", "tpu") that ops choose their block sizes for."""
    target = _target.get()
    return jax.default_backend() if target is None else target.platform


def target_kind() -> str:
    """What kind of device of that platform it is, in JAX's words: "TPU v6 lite", say."""
    return (_target.get() or jax.devices()[0]).device_kind


def target_compute_capability() -> float | None:
    """That of an NVIDIA GPU, where it is known."""
    device = _target.get() or jax.devices()[0]
    try:
        return float(getattr(device, "compute_capability", ""))
    except ValueError:
        return None


@contextlib.contextmanager
def targeting(device: Target) -> Iterator[None]:
    """Has ops choose for another device than the default one, while they are traced.

    For compilation ahead of time, where the device need not be there: put it around
    ``jax.jit(f).lower(...)``. A function that was traced before is not traced again.
    """
    token = _target.set(device)
    try:
        yield
    finally:
        _target.reset(token)
