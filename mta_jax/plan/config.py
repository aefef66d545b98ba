"""Settings of a plan: those of the run, and what it is to run on."""

import dataclasses

from mta_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(TrainConfig):
    """A training run, and accelerators that need not be there."""

    topology: str = "v5p:2x2x1"
    """TPU slice, v5e, v5p or v6e and its shape in chips, such as v5p:4x4x4 or v5e:16x16; or h100
    and the number of GPUs, such as h100:8."""

    num_slices: int = 1
    """So many of these slices, joined by a network. (Its speed is in none of the bounds.)"""

    search: bool = False
    """Try other meshes, micro-batches and rematerialisation, and rank them."""

    most_programs: int = 6
    """Programs to compile where the run does not fit, or in a search; each takes minutes for a
    large model."""

    json: str | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_slices", "most_programs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.compare is not None:
            raise ValueError(f"compare {self.compare}: a plan is of one run; set it to null")
