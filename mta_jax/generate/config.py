"""Settings of `python -m mta_jax.generate`."""

import dataclasses

from mta_jax.inference import Limits, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig(Sampling, Limits):
    """What to write, with which model."""

    checkpoint: str
    """Run folder, whose newest checkpoint is taken, RUN/checkpoints/STEP, or a folder of
    weights."""

    prompt: str | None = None
    """Text to continue; null: begin a document."""

    prompt_file: str | None = None
    """File of prompts instead: one a line, or JSON lines with a field "prompt" (*.jsonl)."""

    output: str | None = None
    """File for the texts, as JSON lines; null: the terminal."""

    max_new_tokens: int | None = None
    """Most tokens to write; null: 128, or as many as the context has room for."""

    context_length: int | None = None
    """Most tokens of a text with its prompt; null: as many as the model was trained with."""

    stop: str | list[str] = dataclasses.field(default_factory=list)
    """Strings that end a text, and are not part of it."""

    num_samples: int = 1
    """Texts for each prompt."""

    seed: int = 0
    """Decides what is drawn, together with the numbers of the prompt and of the sample."""

    batch_size: int = 8
    """Prompts of a file that are continued at once."""

    log_probs: bool = False
    """Write the tokens and their log-probabilities to the output file, too."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        Limits.__post_init__(self)
        for name in ("num_samples", "batch_size", "max_new_tokens", "context_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt and prompt_file: give one of them")
        if self.prompt == "":
            raise ValueError("prompt '': is empty; leave it out to begin a document")
        if "" in self.stop_strings:
            raise ValueError("stop '': an empty string would end every text; leave it out")
        if self.log_probs and self.output is None:
            raise ValueError("log_probs true without output: name a file for them")

    @property
    def stop_strings(self) -> list[str]:
        """As a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)}
        )

    @property
    def limits(self) -> Limits:
        """How much is computed at once."""
        return Limits(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)}
        )
