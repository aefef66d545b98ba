"""Time of a whole training step by kind of attention, beside a Transformer's.

    python -m mta_jax.benchmark train_step
    python -m mta_jax.benchmark train_step --torch true

The step is the one of training: loss, gradients, AdamW. Times are medians on the device
at hand; only their ratios within one run say anything.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress
from rich.table import Table

from mta_jax.benchmark import torch_model
from mta_jax.benchmark.command import implementations_of, run_command
from mta_jax.benchmark.timing import median_seconds
from mta_jax.models import AttentionKind, ModelConfig, MTAConfig
from mta_jax.ops.multi_token_attention import Implementation
from mta_jax.training.config import TrainConfig
from mta_jax.training.state import make_program
from mta_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepBenchmarkConfig:
    """What is measured."""

    kinds: list[AttentionKind] = dataclasses.field(
        default_factory=lambda: ["transformer", "talking_heads", "mta"]
    )
    """Kinds of attention. mta: the paper's, with key-query convolution in every second
    layer."""

    implementations: list[Implementation] | None = None
    """Implementations of attention by name; null: what a call takes by itself, and xla."""

    length: int = 1024
    """Tokens of an example."""

    batch_size: int = 2
    """Examples of a step."""

    num_layers: int = 4
    """Layers."""

    embed_dim: int = 256
    """Width of the model."""

    num_heads: int = 8
    """Heads."""

    vocab_size: int = 512
    """Tokens."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; PyTorch computes in float32."""

    repeats: int = 3
    """Timed steps; the median counts."""

    torch: bool = False
    """Time the same model with the paper's mathematics in PyTorch beside it (CPU; extra
    `bench`)."""

    json: str | None = None
    """File for the figures; null: none."""

    def __post_init__(self) -> None:
        sizes = ("length", "batch_size", "num_layers", "embed_dim", "num_heads", "vocab_size")
        for name in (*sizes, "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("kinds", "implementations"):
            if getattr(self, name) == []:
                raise ValueError(f"{name} []: name at least one")
        if self.torch and "diff" in self.kinds:
            raise ValueError("kinds diff: there is no PyTorch model of it; leave it or torch out")

    def model(self, kind: AttentionKind, implementation: Implementation | None) -> ModelConfig:
        """The model of one row."""
        return ModelConfig(
            vocab_size=self.vocab_size,
            num_layers=self.num_layers,
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            attention=kind,
            mta=MTAConfig(kq_layers=list(range(1, self.num_layers, 2))),
            attention_implementation=implementation,
            dtype=self.dtype,
        )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
      kind: kind of attention.
      implementation: which one, or "automatic" or "torch".
      step_ms: milliseconds of a training step.
      temp_bytes: its temporary memory; None where it is not known.
    """

    kind: str
    implementation: str
    step_ms: float
    temp_bytes: int | None


def main(arguments: list[str]) -> int:
    """Runs the command; see `run_command`."""
    return run_command(
        arguments,
        StepBenchmarkConfig,
        name="train_step",
        description="Time of a whole training step on the device at hand.",
        measure=measure,
        table=_table,
    )


def measure(config: StepBenchmarkConfig) -> list[Measurement]:
    """All rows, kinds outermost."""
    rows = [(kind, name) for kind in config.kinds for name in implementations_of(config)]
    measurements = []
    with Progress(transient=True) as progress:
        for kind, name in progress.track(rows, description="measuring"):
            measure_one = _measure_torch if name == "torch" else _measure
            measurements.append(measure_one(config, kind, name))
    return measurements


def _tokens(config: StepBenchmarkConfig) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.length + 1)
    return rng.integers(0, config.vocab_size, size=shape, dtype=np.int32)


def _measure(
    config: StepBenchmarkConfig, kind: AttentionKind, implementation: Implementation | None
) -> Measurement:
    program = make_program(TrainConfig(model=config.model(kind, implementation)))
    tokens = jnp.asarray(_tokens(config))
    weights = jnp.ones((config.batch_size, config.length))
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "targets_weights": weights}
    state = jax.jit(program.initial_state)()
    step_function = jax.jit(make_train_step(program), donate_argnums=0)
    compiled = step_function.lower(state, batch).compile()
    memory = compiled.memory_analysis()

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return Measurement(
        kind,
        implementation or "automatic",
        1e3 * median_seconds(step, config.repeats),
        None if memory is None else memory.temp_size_in_bytes,
    )


def _measure_torch(config: StepBenchmarkConfig, kind: AttentionKind, name: str) -> Measurement:
    step = torch_model.train_step(config.model(kind, None), kind, _tokens(config))
    return Measurement(kind, name, 1e3 * median_seconds(step, config.repeats), None)


def _table(
    config: StepBenchmarkConfig, measurements: list[Measurement], machine: dict[str, str]
) -> Table:
    table = Table(
        title=(
            f"Training step, {config.num_layers} layers of width {config.embed_dim}, "
            f"{config.num_heads} heads, {config.batch_size} x {config.length:,} tokens, "
            f"{config.dtype}"
        ),
        caption=", ".join(f"{name} {value}" for name, value in machine.items()),
    )
    for name in ("kind", "implementation"):
        table.add_column(name)
    for name in ("step ms", "to transformer", "memory MiB"):
        table.add_column(name, justify="right")
    for row in measurements:
        in_torch = row.implementation == "torch"
        own = [m for m in measurements if (m.implementation == "torch") == in_torch]
        baseline = min((m.step_ms for m in own if m.kind == "transformer"), default=None)
        table.add_row(
            row.kind,
            row.implementation,
            f"{row.step_ms:,.0f}",
            "" if baseline is None else f"{row.step_ms / baseline:.2f}",
            "" if row.temp_bytes is None else f"{row.temp_bytes / 2**20:,.0f}",
        )
    return table
