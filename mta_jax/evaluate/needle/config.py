"""What is hidden, where, and how often."""

import dataclasses

from mta_jax.data.needles.context import MOST_NEEDLES
from mta_jax.evaluate.config import HaystackConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedleConfig(HaystackConfig):
    """Numbers of cities, hidden in running text, and questions for them."""

    lengths: list[int] = dataclasses.field(default_factory=lambda: [2048, 4096])
    """Tokens of a context with its question and answer. The paper has 2,048 and 4,096."""

    needles: list[int] = dataclasses.field(default_factory=lambda: [2, 4, 6])
    """Numbers of cities that a context tells of. The paper has 2 to 10."""

    asked: int = 1
    """How many of them the question names."""

    depths: list[float] = dataclasses.field(default_factory=lambda: [0.0, 25.0, 50.0, 75.0, 100.0])
    """Percentages of the context before the needle that is asked for first; others lie anywhere."""

    samples: int = 50
    """Samples of each cell: a length, a number of needles and a depth. The paper has 500."""

    digits: int = 1
    """Digits of the numbers."""

    seed: int = 0
    """Decides cities, numbers and places, with the cell and the number of the sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lengths", "needles", "depths"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} {values}: name at least one, each once")
        for name, least in (("asked", 1), ("samples", 1), ("digits", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")
        if self.digits > 9:
            raise ValueError(f"digits {self.digits}: must be at most 9")
        if min(self.lengths) < 1:
            raise ValueError(f"lengths {self.lengths}: must be at least 1 each")
        if not min(self.needles) >= 1 or max(self.needles) > MOST_NEEDLES:
            raise ValueError(f"needles {self.needles}: must be in 1..{MOST_NEEDLES} each")
        if self.asked > min(self.needles):
            raise ValueError(f"asked {self.asked}: must be at most the needles {min(self.needles)}")
        if not min(self.depths) >= 0 or max(self.depths) > 100:
            raise ValueError(f"depths {self.depths}: must be in 0..100 each")
