"""How fast a run is: seconds, and what they were spent on."""

import contextlib
import time
from collections.abc import Iterator

from jax.sharding import Mesh

from mta_jax.hardware.peak_flops import peak_flops
from mta_jax.training.config import TrainConfig
from mta_jax.training.partition import training_flops


class Speed:
    """Times the steps between two lines of metrics.

    Args:
      config: of the run, which tells the tokens and the work of a step.
      mesh: what computes it.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh):
        self._tokens = config.data.rows * config.data.row_length
        self._flops_per_token = training_flops(config)
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        self._peak = None if peak is None else peak * mesh.size
        self.start()

    def start(self, *, seconds: float = 0.0, data_seconds: float = 0.0) -> None:
        """Begins an interval, or goes on with one that has taken these seconds already."""
        self._began = time.perf_counter() - seconds
        self._waited = data_seconds

    def so_far(self) -> tuple[float, float]:
        """Seconds of this interval, and of them those of waiting for data."""
        return time.perf_counter() - self._began, self._waited

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts what happens inside as waiting."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def stop(self, num_steps: int) -> dict[str, float]:
        """Ends an interval, when its steps have been computed.

        Returns:
          ``seconds`` in all; ``data_seconds`` of them the host waited for a batch (the
          device may have been at work meanwhile, on steps given to it before), and
          ``compute_seconds``, the rest; ``tokens_per_second``, padding included; model FLOPs
          of it, ``flops_per_second`` (see `mta_jax.models.flops`), and ``mfu``, their share of
          the devices' peak, where that is known.
        """
        seconds, waited = self.so_far()
        tokens_per_second = num_steps * self._tokens / seconds
        figures = {
            "seconds": seconds,
            "data_seconds": waited,
            "compute_seconds": seconds - waited,
            "tokens_per_second": tokens_per_second,
            "flops_per_second": tokens_per_second * self._flops_per_token,
        }
        if self._peak is not None:
            figures["mfu"] = figures["flops_per_second"] / self._peak
        return figures
