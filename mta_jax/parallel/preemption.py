"""Notice that this machine is about to be taken away."""

import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Listens for SIGTERM, which schedulers send before they take a machine.

    Use as a context manager, in the main thread. Several processes agree on the step after
    which all of them stop.
    """

    def __init__(self) -> None:
        self._is_announced = False
        self._before: Any = None

    def __enter__(self) -> "Preemption":
        # JAX listens by itself where there are several processes.
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._announce)
        return self

    def __exit__(self, *_: object) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _announce(self, number: int, frame: FrameType | None) -> None:
        self._is_announced = True

    def stops_after(self, step: int) -> bool:
        """Whether to save and leave after a step, which all processes must ask about."""
        if jax.process_count() == 1:
            return self._is_announced
        return multihost_utils.reached_preemption_sync_point(step)
