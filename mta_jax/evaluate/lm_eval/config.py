"""Settings of `python -m mta_jax.evaluate lm_eval`."""

import dataclasses
from typing import Literal

from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.lm_eval.paper import TASKS as PAPER_TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class LmEvalConfig(EvaluateConfig):
    """Which benchmarks, and how they are asked."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    """Tasks, groups or tags of lm-evaluation-harness by their names there, YAML files of tasks, or
    lambada_local and ppl_local, which read `data` and need no network."""

    preset: Literal["paper"] | None = None
    """paper: the nine benchmarks of the paper's Table 3, zero-shot, MMLU with five examples."""

    num_fewshot: int | None = None
    """Solved examples before each question; null: as the preset or the task says."""

    limit: int | None = None
    """Only so many questions of each task, the first ones; null: all."""

    include_path: str | list[str] | None = None
    """Folders with YAML files of more tasks."""

    data: str | list[str] | None = None
    """Files of JSON lines with a field `text`, for lambada_local and ppl_local."""

    context_length: int | None = None
    """Tokens that a model reads at most; null: as many as it is made for."""

    allow_extrapolation: bool = False
    """context_length may be more than a model was made for."""

    seed: int = 0
    """Decides what is drawn where a task asks for samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("num_fewshot", 0), ("limit", 1), ("context_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} {value}: must be at least {least}, or null")
        if bool(self.tasks) == (self.preset is not None):
            raise ValueError("tasks, preset: give one of them, such as tasks [lambada_openai]")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks {self.tasks}: must name each once")

    @property
    def wanted(self) -> list[str]:
        """Names of all tasks."""
        return list(PAPER_TASKS) if self.preset == "paper" else self.tasks

    @property
    def folders(self) -> list[str]:
        """Of more tasks."""
        return _listed(self.include_path)

    @property
    def data_files(self) -> list[str]:
        """Of the local tasks."""
        return _listed(self.data)

    def shots_of(self, name: str) -> int | None:
        """Solved examples before a question of a task; None: as the task says."""
        if self.num_fewshot is None and self.preset == "paper":
            return PAPER_TASKS[name]
        return self.num_fewshot


def _listed(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
