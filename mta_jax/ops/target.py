"""The platform that a program is written for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target_platform() -> str:
    """The platform ("cpu", "gpu", "tpu") that ops choose their block sizes for."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def targeting(platform: str) -> Iterator[None]:
    """Has ops choose for another platform than the default one, while they are traced.

    For compilation ahead of time: put it around ``jax.jit(f).lower(...)``. A function
    that was traced before is not traced again.
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)
