"""Settings of BABILong."""

import dataclasses
from typing import Literal

from mta_jax.evaluate.babilong.tasks import TASKS
from mta_jax.evaluate.config import HaystackConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BabilongConfig(HaystackConfig):
    """Which questions are asked, and what they are hidden in."""

    tasks: list[int] = dataclasses.field(default_factory=lambda: list(TASKS))
    """1: where a person is; 2: where a thing is; 3: where a thing was before; 4: how places lie;
    5: who gave what to whom."""

    lengths: list[int] = dataclasses.field(default_factory=lambda: [0, 1024, 2048, 4096])
    """Tokens of the whole text, by the model's own tokenizer, instruction, examples, question and
    room for the answer included; 0: the facts alone, with nothing to hide them."""

    samples: int = 100
    """Questions of each task at each length."""

    seed: int = 0
    """Decides which questions are asked, and where their facts are hidden."""

    babi: str | None = None
    """Folder with bAbI's files, such as qa1_single-supporting-fact_test.txt; null: stories in their
    style are made up."""

    split: Literal["test", "train"] = "test"
    """Which of bAbI's files."""

    shots: int = 2
    """Short examples with their answers, before the text that is asked about."""

    max_new_tokens: int = 16
    """Tokens that a model may write for its answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"tasks {task}: there are {', '.join(map(str, TASKS))}")
        for length in self.lengths:
            if length < 0:
                raise ValueError(f"lengths {length}: must be at least 1, or 0 for facts alone")
        for name in ("tasks", "lengths"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} {values}: name at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values}: names one twice")
        for name, least in (("samples", 1), ("seed", 0), ("shots", 0), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")
