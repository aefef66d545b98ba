"""Everything that decides a training run."""

import dataclasses
from pathlib import Path
from typing import Literal

from mta_jax.data import DataConfig
from mta_jax.errors import ConfigError
from mta_jax.models import AttentionKind, ModelConfig
from mta_jax.parallel.mesh import MeshConfig
from mta_jax.parallel.processes import ProcessesConfig
from mta_jax.training.finetune_config import FinetuneConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a learning-rate schedule. The defaults are the paper's, but for the warm-up.

    Appendix E; its warm-up depends on the size of the model.
    """

    learning_rate: float = 1.5e-4
    """Peak learning rate."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """What follows the warm-up: constant, or a decay that ends at the last step."""

    warmup_steps: int = 0
    """Steps over which the rate rises from 0."""

    min_ratio: float = 0.0
    """Share of the peak rate that a decay ends at."""

    beta1: float = 0.9
    """Decay of the first moment."""

    beta2: float = 0.98
    """Decay of the second moment."""

    epsilon: float = 1e-8
    """Added to the root of the second moment."""

    weight_decay: float = 0.05
    """Decoupled weight decay of projections and embeddings."""

    decay_all: bool = False
    """Decay mixing kernels, norms and gates as well, as the paper's code does. That pulls
    identity kernels towards zero."""

    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; null: no clipping."""

    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, with this share of the old value at
    each step, and evaluate and sample with it; null: none."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"optimizer.learning_rate {self.learning_rate}: must be above 0")
        for name in ("warmup_steps", "weight_decay", "min_ratio", "epsilon"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name} {getattr(self, name)}: must be at least 0")
        if self.min_ratio > 1:
            raise ValueError(f"optimizer.min_ratio {self.min_ratio}: must be at most 1")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} {getattr(self, name)}: must be in [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optimizer.clip_norm {self.clip_norm}: must be above 0, or null")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"optimizer.ema_decay {self.ema_decay}: must be in (0, 1), or null")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross-entropy."""

    z_loss: float = 0.0
    """Factor of the squared log of the softmax denominator, which keeps logits from drifting
    (1e-4 in PaLM). Not part of the reported loss."""

    tokens_at_once: int | None = None
    """Logits of so many tokens are in memory at a time, computed twice; null: of all."""

    def __post_init__(self) -> None:
        if not self.z_loss >= 0:
            raise ValueError(f"loss.z_loss {self.z_loss}: must be at least 0")
        if self.tokens_at_once is not None and self.tokens_at_once < 1:
            raise ValueError(
                f"loss.tokens_at_once {self.tokens_at_once}: must be at least 1, or null"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Bad steps: a loss or gradient that is not finite, or a spike. They never reach the weights.

    A run may be continued with other values here.
    """

    on_bad_step: Literal["stop", "skip"] = "stop"
    """stop: end the run, with the state before the step saved and the batch in a file. skip:
    leave the batch out, and count it."""

    spike_ratio: float | None = None
    """A loss of more than this many times its recent mean is a bad step too, once there are 20
    good ones; null: it is not."""

    max_skips: int = 10
    """Bad steps in a row after which skipping gives up and the run stops."""

    def __post_init__(self) -> None:
        if self.spike_ratio is not None and not self.spike_ratio > 1:
            raise ValueError(f"safety.spike_ratio {self.spike_ratio}: must be above 1, or null")
        if self.max_skips < 1:
            raise ValueError(f"safety.max_skips {self.max_skips}: must be at least 1")


Tracker = Literal["wandb", "trackio"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Where metrics go besides JSON lines and TensorBoard, which are always written.

    A run may be continued with other values here.
    """

    to: list[Tracker] = dataclasses.field(default_factory=list)
    """wandb (Weights & Biases), trackio, or both; each has to be installed."""

    project: str = "mta_jax"
    """Project that the run appears in. Its name is that of its folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints in the run folder. A run started again continues from the last."""

    every: int = 500
    """Steps between checkpoints; a multiple of log_every. The last step is always saved."""

    keep: int = 2
    """Newest checkpoints to keep. With one, a damaged checkpoint ends the run."""

    keep_best: int = 0
    """Checkpoints to keep besides: of those written at an evaluation, the ones with the lowest
    held-out loss, a mean over held-out sets."""

    asynchronous: bool = True
    """Go on training while a checkpoint is written. False: a run that is killed loses `every` steps
    at most; otherwise those that it took while the last save was being written, too."""

    def __post_init__(self) -> None:
        if self.keep_best < 0:
            raise ValueError(f"checkpoint.keep_best {self.keep_best}: must be at least 0")
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"checkpoint.{name} {getattr(self, name)}: must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Text that a language model writes while it trains."""

    every: int | None = None
    """Steps between samples; null: none."""

    prompt: str = ""
    """Text that the sample continues; empty: the start of a document."""

    num_tokens: int = 128
    """Tokens to write."""

    temperature: float = 0.8
    """Sampling temperature; 0 always takes the likeliest token."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"sample.every {self.every}: must be at least 1, or null")
        if self.num_tokens < 1:
            raise ValueError(f"sample.num_tokens {self.num_tokens}: must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"sample.temperature {self.temperature}: must be at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Precedence: --section.field, then --config files, then defaults."""

    run_dir: str = "runs/run"
    """Folder of the run. If it holds this very run, the run continues."""

    compare: list[AttentionKind] | None = None
    """Train these kinds of attention one after the other, all else equal, each in its
    own subfolder, and compare them. null: only model.attention."""

    seed: int = 0
    """Decides weights, data order and dropout."""

    num_steps: int = 1_000
    """Training steps."""

    log_every: int = 50
    """Steps between lines of metrics; each is a mean over them."""

    evaluate_every: int = 500
    """Steps between evaluations on all held-out data; there is one at the end too."""

    init_from: str | None = None
    """Run folder, one of its checkpoints, or a folder of weights, to begin with; null: random
    weights. The optimiser, its schedule and the data begin anew."""

    accumulate: int = 1
    """Parts that a batch is taken in, one after the other, for the memory of one part. The
    gradient is that of the whole batch: every token counts the same."""

    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Devices."""

    processes: ProcessesConfig = dataclasses.field(default_factory=ProcessesConfig)
    """Processes."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """The model."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """The data."""

    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """The optimiser."""

    finetune: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    """What is trained."""

    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    """The loss."""

    safety: SafetyConfig = dataclasses.field(default_factory=SafetyConfig)
    """Bad steps."""

    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    """Checkpoints."""

    track: TrackConfig = dataclasses.field(default_factory=TrackConfig)
    """Trackers."""

    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    """Samples during training."""

    @property
    def held_out_rows(self) -> int:
        """Rows in a batch of an evaluation: as many as a step has in memory at a time."""
        return self.data.rows // self.accumulate

    def __post_init__(self) -> None:
        if self.run_dir in ("", "null", "~"):
            raise ValueError(f"run_dir {self.run_dir!r}: must be the path of a folder")
        for name in ("num_steps", "log_every", "evaluate_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed}: must be in 0..{2**32 - 1}")
        if self.data.rows % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate}: must divide data.batch_size {self.data.rows}"
            )
        # What is evaluated, sampled and saved is known to be good: only a line of metrics tells.
        intervals = {
            "checkpoint.every": self.checkpoint.every,
            "evaluate_every": self.evaluate_every,
            "sample.every": self.sample.every,
        }
        for name, every in intervals.items():
            if every is not None and every % self.log_every:
                raise ValueError(
                    f"{name} {every}: must be a multiple of log_every {self.log_every}"
                )
        if self.optimizer.warmup_steps > self.num_steps:
            raise ValueError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps}: must be at most num_steps "
                f"{self.num_steps}"
            )
        if self.compare is not None and (
            not self.compare or len(set(self.compare)) != len(self.compare)
        ):
            raise ValueError(f"compare {self.compare}: name at least one kind, each once; or null")
        if self.compare is not None and self.model.attention != ModelConfig.attention:
            raise ValueError(
                f"model.attention {self.model.attention}: has no effect, since compare names the "
                f"kinds {self.compare}; add it there, or set compare to null"
            )
        if self.finetune.retrofit and self.init_from is None:
            raise ValueError(
                "finetune.retrofit true: init_from must name the model to add something to"
            )
        if self.sample.every is not None and self.data.source != "text":
            raise ValueError(
                f"sample.every {self.sample.every}: only data.source 'text' writes samples"
            )


def runs_of(config: TrainConfig) -> dict[str, TrainConfig]:
    """The runs that a config asks for, by name: one, or one for each kind it compares.

    Each has its own folder, and a config that would make it alone.

    Raises:
      ConfigError: where the model cannot have one of the kinds.
    """
    if config.compare is None:
        kind = config.model.attention
        return {kind if isinstance(kind, str) else "mixed": config}
    try:
        return {
            kind: dataclasses.replace(
                config,
                compare=None,
                run_dir=str(Path(config.run_dir) / kind),
                model=dataclasses.replace(config.model, attention=kind),
            )
            for kind in config.compare
        }
    except ValueError as error:
        raise ConfigError(str(error)) from None
