"""Time per generated token by kind of attention and length of the context.

    python -m mta_jax.benchmark decode
    python -m mta_jax.benchmark decode --model mta_jax/models/presets/880m.yaml

Weights are random. The kinds take turns, so that what else the machine does meets all of
them; only their ratios within one run say anything.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.progress import Progress
from rich.table import Table

from mta_jax.benchmark.command import run_command
from mta_jax.inference import decoding
from mta_jax.models import AttentionKind, ModelConfig, MTAConfig, Transformer
from mta_jax.models.rngs import rngs_of
from mta_jax.typing import Array


def _default_model() -> ModelConfig:
    return ModelConfig(
        vocab_size=32_768,
        # A third of the layers of the paper's 880M model, of which every fourth convolves, too.
        num_layers=8,
        embed_dim=1536,
        num_heads=16,
        mta=MTAConfig(kq_layers=[2, 6]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeBenchmarkConfig:
    """What is measured."""

    model: ModelConfig = dataclasses.field(default_factory=_default_model)
    """The model; its kind of attention is one after the other of `kinds`."""

    kinds: list[AttentionKind] = dataclasses.field(
        default_factory=lambda: ["transformer", "talking_heads", "diff", "mta"]
    )
    """Kinds of attention."""

    contexts: list[int] = dataclasses.field(default_factory=lambda: [512, 1024, 2048, 4096])
    """Tokens before the ones that are timed, and room for them."""

    batch_size: int = 1
    """Sequences at a time."""

    num_tokens: int = 8
    """Tokens of a sequence in one timed call."""

    repeats: int = 5
    """Timed calls; the median counts."""

    json: str | None = None
    """File for the figures; null: none."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("kinds", "contexts"):
            if not getattr(self, name):
                raise ValueError(f"{name} []: name at least one")
        for context in self.contexts:
            if context <= self.num_tokens:
                raise ValueError(f"contexts {context}: must be above num_tokens {self.num_tokens}")
        if self.model.vocab_size is None:
            raise ValueError("model.vocab_size null: give a number of tokens")

    def model_of(self, kind: AttentionKind) -> ModelConfig:
        """The model of one row."""
        return dataclasses.replace(self.model, attention=kind)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One cell of the table.

    Attributes:
      kind: kind of attention.
      context: tokens that each new one attends to, about.
      token_ms: milliseconds per step, which is a token of each sequence.
      cache_bytes: of the keys, values and queries of the batch.
    """

    kind: str
    context: int
    token_ms: float
    cache_bytes: int


def main(arguments: list[str]) -> int:
    """Runs the command; see `run_command`."""
    return run_command(
        arguments,
        DecodeBenchmarkConfig,
        name="decode",
        description="Time per generated token against the length of the context.",
        measure=measure,
        table=_table,
    )


def measure(config: DecodeBenchmarkConfig) -> list[Measurement]:
    """All cells, contexts outermost."""
    models = {kind: _model(config.model_of(kind)) for kind in config.kinds}
    measurements = []
    with Progress(transient=True) as progress:
        for context in progress.track(config.contexts, description="measuring"):
            measurements += _at_context(config, models, context)
    return measurements


def _model(config: ModelConfig) -> tuple[nnx.GraphDef, Any]:
    def build() -> Transformer:
        return Transformer(config, rngs=rngs_of(jax.random.key(0)))

    params = jax.jit(lambda: nnx.state(build()))()
    return nnx.graphdef(nnx.eval_shape(build)), jax.block_until_ready(params)


def _at_context(
    config: DecodeBenchmarkConfig,
    models: Mapping[AttentionKind, tuple[nnx.GraphDef, Any]],
    context: int,
) -> list[Measurement]:
    """The cells of one context; the kinds take turns."""
    sizes, calls = {}, {}
    for kind, (graphdef, params) in models.items():
        cache = _cache(graphdef, params, config, context)
        sizes[kind] = sum(leaf.nbytes for leaf in jax.tree.leaves(cache.layers))
        calls[kind] = _call(graphdef, params, cache, config, context)
    seconds: dict[AttentionKind, list[float]] = {kind: [] for kind in models}
    # The first round compiles.
    for turn in range(config.repeats + 1):
        for kind, call in calls.items():
            start = time.perf_counter()
            call()
            if turn > 0:
                seconds[kind].append(time.perf_counter() - start)
    return [
        Measurement(kind, context, 1e3 * statistics.median(times) / config.num_tokens, sizes[kind])
        for kind, times in seconds.items()
    ]


def _cache(graphdef: nnx.GraphDef, params: Any, config: DecodeBenchmarkConfig, context: int) -> Any:
    """A cache that is full of numbers."""
    empty = nnx.merge(graphdef, params).empty_cache(config.batch_size, context)
    key = jax.random.key(0)
    fill = jax.jit(lambda x: jax.random.normal(key, x.shape, x.dtype))
    return dataclasses.replace(empty, layers=jax.tree.map(fill, empty.layers))


def _call(
    graphdef: nnx.GraphDef, params: Any, cache: Any, config: DecodeBenchmarkConfig, context: int
) -> Callable[[], None]:
    """Writes the last tokens that there is room for, again and again."""
    batch, vocab_size = config.batch_size, config.model.vocab_size
    assert vocab_size is not None
    written = decoding.begin(
        jnp.zeros((batch, vocab_size)),
        cache,
        jax.random.split(jax.random.key(0), batch),
        None,
        {},
        num_tokens=vocab_size,
    )

    def call() -> None:
        nonlocal written
        tokens: Array
        # The call uses up its arguments.
        lengths = jnp.full((batch,), context - config.num_tokens, jnp.int32)
        cache = dataclasses.replace(written.cache, lengths=lengths)
        tokens, _, written = decoding.write(
            graphdef,
            params,
            dataclasses.replace(written, cache=cache),
            {},
            config.num_tokens,
            -1,
            block=config.num_tokens,
            num_tokens=vocab_size,
        )
        jax.block_until_ready((tokens, written))

    return call


def _table(
    config: DecodeBenchmarkConfig, measurements: list[Measurement], machine: dict[str, str]
) -> Table:
    model = config.model
    table = Table(
        title=(
            f"One token more, {model.num_layers} layers of width {model.embed_dim}, "
            f"{model.num_heads} heads, batch {config.batch_size}, {model.dtype}"
        ),
        caption=", ".join(f"{name} {value}" for name, value in machine.items()),
    )
    table.add_column("kind")
    for name in ("context", "ms per token", "to transformer", "cache MiB"):
        table.add_column(name, justify="right")
    baselines = {m.context: m.token_ms for m in measurements if m.kind == "transformer"}
    for kind in config.kinds:
        for row in (m for m in measurements if m.kind == kind):
            baseline = baselines.get(row.context)
            table.add_row(
                row.kind,
                f"{row.context:,}",
                f"{row.token_ms:,.1f}",
                "" if baseline is None else f"{row.token_ms / baseline:.2f}",
                f"{row.cache_bytes / 2**20:,.0f}",
            )
        table.add_section()
    return table
