"""Which parameters a run trains, and what it adds to those it begins with."""

import dataclasses
from typing import Literal, get_args

Part = Literal["all", "mixing", "norms", "attention", "mlp", "embedding", "none"]
"""all, none, or: mixing (what ordinary attention lacks: mixing kernels, group norms, gates,
lambdas), norms (before attention and feed-forward, of queries and keys, and the last), attention
(its projections), mlp (feed-forward), embedding (and the output layer)."""

Projection = Literal[
    "query_proj", "key_proj", "value_proj", "out_proj", "gate_proj", "up_proj", "down_proj"
]

_HOLDER: dict[str, str] = {
    name: "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "attention"
    for name in get_args(Projection)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank terms beside projections that are not trained themselves (LoRA).

    https://arxiv.org/abs/2106.09685
    """

    rank: int | None = None
    """Width of the bottleneck of each term; null: no terms."""

    alpha: float = 16.0
    """The factor of a term is alpha / rank."""

    projections: list[Projection] = dataclasses.field(
        default_factory=lambda: list(get_args(Projection))
    )
    """Projections that get a term: query_proj, key_proj, value_proj, out_proj of attention;
    gate_proj, up_proj, down_proj of the feed-forward block."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"finetune.lora.rank {self.rank}: must be at least 1, or null")
        if not self.alpha > 0:
            raise ValueError(f"finetune.lora.alpha {self.alpha}: must be above 0")
        names = self.projections
        if not names or len(set(names)) != len(names):
            raise ValueError(f"finetune.lora.projections {names}: name at least one, each once")
        for name in names:
            if name not in _HOLDER:
                raise ValueError(
                    f"finetune.lora.projections {name}: must be one of {', '.join(_HOLDER)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Training a part of a model, whose other parameters stay as init_from has them, to the bit."""

    train: Part | list[Part] = "all"
    """Parts to train, one or a list: all, mixing (mixing kernels, group norms, gates), norms,
    attention (projections), mlp, embedding (and output layer), none (low-rank terms only)."""

    retrofit: bool = False
    """The model of init_from lacks what mixing names, all or some of it: that begins as in a new
    run. Mixing kernels that start as identities leave the model as it is; group norms do not."""

    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    """Low-rank terms."""

    @property
    def parts(self) -> list[str]:
        """`train` as a list."""
        return [self.train] if isinstance(self.train, str) else list(self.train)

    @property
    def trains_all(self) -> bool:
        """Whether nothing stays as it is."""
        return self.parts == ["all"]

    def __post_init__(self) -> None:
        parts, shown = self.parts, ", ".join(self.parts)
        for part in parts:
            if part not in get_args(Part):
                raise ValueError(
                    f"finetune.train {part}: must be one of {', '.join(get_args(Part))}"
                )
        if not parts or len(set(parts)) != len(parts):
            raise ValueError(f"finetune.train {parts}: name at least one part, each once")
        if len(parts) > 1 and {"all", "none"} & set(parts):
            raise ValueError(f"finetune.train {shown}: all and none stand alone")
        if self.lora.rank is None:
            if parts == ["none"]:
                raise ValueError(
                    "finetune.train none: trains nothing; name a part, or set finetune.lora.rank"
                )
            return
        for name in self.lora.projections:
            if "all" in parts or _HOLDER[name] in parts:
                raise ValueError(
                    f"finetune.lora.rank {self.lora.rank}: finetune.train {shown} trains {name} "
                    "itself; leave one of them out, such as with finetune.train none"
                )
