"""Time and memory of the attention op, each kind beside plain attention.

    python -m mta_jax.benchmark attention
    python -m mta_jax.benchmark attention --lengths '[1024]' --torch true

Times are medians on the device at hand; only their ratios within one run say anything.
Memory is what the compiler reserves for temporary arrays.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress
from rich.table import Table

from mta_jax.benchmark import torch_attention
from mta_jax.benchmark.command import implementations_of, run_command
from mta_jax.benchmark.timing import median_seconds
from mta_jax.ops.multi_token_attention import Implementation, multi_token_attention

Kind = Literal["plain", "talking_heads", "key_query", "mta"]
"""plain: ordinary attention. talking_heads: head mixing before and after the softmax.
key_query: convolution of the logits only. mta: all four mixing steps."""

_STEPS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "talking_heads": ("pre_head", "post_head"),
    "key_query": ("pre_kq",),
    "mta": ("pre_kq", "pre_head", "post_kq", "post_head"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionBenchmarkConfig:
    """What is measured."""

    kinds: list[Kind] = dataclasses.field(default_factory=lambda: ["plain", "mta"])
    """Kinds of attention: plain, talking_heads, key_query, mta."""

    implementations: list[Implementation] | None = None
    """Implementations by name; null: the one that a call takes by itself, and xla."""

    lengths: list[int] = dataclasses.field(default_factory=lambda: [512, 1024])
    """Sequence lengths."""

    batch_size: int = 2
    """Examples."""

    num_heads: int = 8
    """Heads."""

    head_size: int = 32
    """Size of a head."""

    kq_kernel_size: tuple[int, int] = (6, 11)
    """Queries and keys of the convolutions."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of queries, keys and values."""

    repeats: int = 5
    """Timed calls; the median counts."""

    torch: bool = False
    """Time the paper's mathematics in PyTorch beside it (CPU; extra `bench`)."""

    json: str | None = None
    """File for the figures; null: none."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_heads", "head_size", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("kinds", "lengths"):
            if not getattr(self, name):
                raise ValueError(f"{name} []: name at least one")
        if min(self.lengths) < 1:
            raise ValueError(f"lengths {self.lengths}: must be at least 1")
        if min(self.kq_kernel_size) < 1 or self.kq_kernel_size[1] % 2 == 0:
            raise ValueError(
                f"kq_kernel_size {list(self.kq_kernel_size)}: both at least 1, the second odd"
            )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
      kind: kind of attention.
      implementation: which one, or "automatic" or "torch".
      length: T.
      forward_ms: milliseconds of the output.
      gradient_ms: milliseconds of the output and all gradients.
      gradient_bytes: temporary memory of the latter; None where it is not known.
    """

    kind: str
    implementation: str
    length: int
    forward_ms: float
    gradient_ms: float
    gradient_bytes: int | None


def main(arguments: list[str]) -> int:
    """Runs the command; see `run_command`."""
    return run_command(
        arguments,
        AttentionBenchmarkConfig,
        name="attention",
        description="Time and memory of the attention op on the device at hand.",
        measure=measure,
        table=_table,
    )


def measure(config: AttentionBenchmarkConfig) -> list[Measurement]:
    """All rows, lengths outermost."""
    rows = [
        (length, kind, implementation)
        for length in config.lengths
        for kind in config.kinds
        for implementation in implementations_of(config)
    ]
    measurements = []
    with Progress(transient=True) as progress:
        for length, kind, implementation in progress.track(rows, description="measuring"):
            arrays = _arrays(config, kind, length)
            if implementation == "torch":
                measurement = _measure_torch(config, kind, length, arrays)
            else:
                measurement = _measure(config, kind, length, arrays, implementation)
            measurements.append(measurement)
    return measurements


def _arrays(config: AttentionBenchmarkConfig, kind: str, length: int) -> dict[str, np.ndarray]:
    """Arguments with gradients, float32."""
    rng = np.random.default_rng(0)
    heads, (query_size, key_size) = config.num_heads, config.kq_kernel_size

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    qkv = (config.batch_size, length, heads, config.head_size)
    arrays = {name: normal(*qkv) for name in ("query", "key", "value")}
    for step in _STEPS[kind]:
        if step.endswith("kq"):
            scale = (query_size * key_size) ** -0.5
            arrays[f"{step}_kernel"] = normal(heads, query_size, key_size, scale=scale)
        else:
            arrays[f"{step}_kernel"] = normal(1, heads, heads, scale=heads**-0.5)
    return arrays


def _measure(
    config: AttentionBenchmarkConfig,
    kind: str,
    length: int,
    arrays: dict[str, np.ndarray],
    implementation: Implementation | None,
) -> Measurement:
    dtype = jnp.dtype(config.dtype)
    inputs = {
        name: jnp.asarray(x, jnp.float32 if name.endswith("kernel") else dtype)
        for name, x in arrays.items()
    }
    attend = functools.partial(multi_token_attention, implementation=implementation)

    def forward(inputs: Any) -> Any:
        return attend(**inputs)

    def gradient(inputs: Any, dout: Any) -> Any:
        out, pullback = jax.vjp(forward, inputs)
        return out, pullback(dout)

    compiled_forward = jax.jit(forward).lower(inputs).compile()
    dout = inputs["query"]
    compiled_gradient = jax.jit(gradient).lower(inputs, dout).compile()
    memory = compiled_gradient.memory_analysis()

    def seconds(function: Callable[..., Any], *args: Any) -> float:
        return median_seconds(lambda: jax.block_until_ready(function(*args)), config.repeats)

    return Measurement(
        kind,
        implementation or "automatic",
        length,
        1e3 * seconds(compiled_forward, inputs),
        1e3 * seconds(compiled_gradient, inputs, dout),
        None if memory is None else memory.temp_size_in_bytes,
    )


def _measure_torch(
    config: AttentionBenchmarkConfig, kind: str, length: int, arrays: dict[str, np.ndarray]
) -> Measurement:
    forward, gradient = torch_attention.functions(arrays, config.dtype)
    return Measurement(
        kind,
        "torch",
        length,
        1e3 * median_seconds(forward, config.repeats),
        1e3 * median_seconds(gradient, config.repeats),
        None,
    )


def _table(
    config: AttentionBenchmarkConfig, measurements: list[Measurement], machine: dict[str, str]
) -> Table:
    shape = f"batch {config.batch_size}, {config.num_heads} heads of {config.head_size}"
    kernels = "x".join(str(size) for size in config.kq_kernel_size)
    table = Table(
        title=f"Attention, {shape}, kernels {kernels}, {config.dtype}",
        caption=", ".join(f"{name} {value}" for name, value in machine.items()),
    )
    for name in ("kind", "implementation"):
        table.add_column(name)
    columns = ("length", "forward ms", "with gradient ms", "to plain", "memory MiB")
    for name in columns:
        table.add_column(name, justify="right")
    for row in measurements:
        plain = min(
            (
                other.gradient_ms
                for other in measurements
                if other.kind == "plain"
                and other.length == row.length
                and (other.implementation == "torch") == (row.implementation == "torch")
            ),
            default=None,
        )
        table.add_row(
            row.kind,
            row.implementation,
            f"{row.length:,}",
            f"{row.forward_ms:,.1f}",
            f"{row.gradient_ms:,.1f}",
            "" if plain is None else f"{row.gradient_ms / plain:.1f}",
            "" if row.gradient_bytes is None else f"{row.gradient_bytes / 2**20:,.0f}",
        )
    return table
