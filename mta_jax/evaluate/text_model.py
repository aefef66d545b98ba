"""The models that text is asked of."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mta_jax.command_line.plain import plain
from mta_jax.data import Tokenizer, split_tokens
from mta_jax.errors import ConfigError
from mta_jax.evaluate.config import EvaluateConfig, checkpoints_of
from mta_jax.evaluate.kept_answers import KeptAnswers, answers_file
from mta_jax.generate.language_model import LanguageModel, language_model_of
from mta_jax.inference import Sampling, Score, score
from mta_jax.provenance import made_with
from mta_jax.training.checkpoint import checksums
from mta_jax.training.saved_weights import (
    Description,
    SavedWeights,
    describe_weights,
    owner_of,
    read_weights,
)

# Tasks look at lengths themselves, and some let a model write a few tokens more.
_NO_LIMIT = 2**31 - 1

Row = TypeVar("Row")

Advance = Callable[[int], None]
"""Is told how many more samples are done."""


@runtime_checkable
class TextModel(Protocol):
    """What a task asks of a model."""

    @property
    def name(self) -> str:
        """For tables and file names, different from that of the others."""

    @property
    def kind(self) -> str:
        """Of attention."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    def context_length(self) -> int:
        """Tokens of the longest text it is made for, with that which begins a document."""

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        advance: Advance | None = None,
    ) -> list[str]:
        """What greedy decoding writes after each prompt, up to a stop string."""

    def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
    ) -> list[list[Score]]:
        """Scores of the continuations of each prompt."""


def likeliest(choices: Sequence[str], scores: Sequence[Score]) -> str:
    """The choice that a model finds likeliest.

    It is the log-probability of all its tokens together that counts, not divided by their number:
    so that it is the choice that a model limited to these would write most often.
    """
    return max(zip(choices, scores, strict=True), key=lambda pair: pair[1].log_prob)[0]


@dataclasses.dataclass(frozen=True)
class CheckpointModel:
    """A checkpoint as a `TextModel`.

    Attributes:
      name: for tables.
      kind: of attention.
      step: training steps behind it.
      folder: the checkpoint.
      context_length: tokens of the longest text it is made for.
      language_model: the model.
      batch_size: prompts at a time.
      answers: those of an evaluation that was stopped, which are not asked for again.
    """

    name: str
    kind: str
    step: int
    folder: Path
    context_length: int
    language_model: LanguageModel
    batch_size: int
    answers: KeptAnswers = dataclasses.field(default_factory=KeptAnswers)

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self.language_model.tokenizer

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        advance: Advance | None = None,
    ) -> list[str]:
        """What greedy decoding writes after each prompt, up to a stop string."""
        texts = [""] * len(prompts)
        size = min(self.batch_size, len(prompts))
        for places in in_batches([len(prompt) for prompt in prompts], self.batch_size):
            rows = filled([prompts[place] for place in places], size)
            settings = {"max_new_tokens": max_new_tokens, "stop": list(stop)}
            written = self.answers.once(
                ["generate", rows, settings],
                functools.partial(self._generate, rows, **settings),
            )
            for place, text in zip(places, written, strict=False):
                texts[place] = text
            if advance:
                advance(len(places))
        return texts

    def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        advance: Advance | None = None,
    ) -> list[list[Score]]:
        """Scores of the continuations of each prompt."""
        scores: list[list[Score]] = [[] for _ in prompts]
        size = min(self.batch_size, len(prompts))
        for places in in_batches([len(prompt) for prompt in prompts], self.batch_size):
            rows = filled([(prompts[place], list(choices[place])) for place in places], size)
            found = self.answers.once(["score", rows], functools.partial(self._score, rows))
            for place, own in zip(places, found, strict=False):
                scores[place] = [Score(**fields) for fields in own]
            if advance:
                advance(len(places))
        return scores

    def _generate(self, prompts: list[str], **settings: Any) -> list[str]:
        greedy = Sampling(temperature=0.0)
        written = self.language_model.generate(prompts, sampling=greedy, **settings)
        return [text.text for text in written]

    def _score(self, rows: list[tuple[str, list[str]]]) -> list[list[dict[str, Any]]]:
        split = [split_tokens(self.tokenizer, prompt, choices) for prompt, choices in rows]
        found = score(
            self.language_model.decoder,
            [np.concatenate([[self.tokenizer.bos_id], given]) for given, _ in split],
            [added for _, added in split],
        )
        return [[dataclasses.asdict(one) for one in own] for own in found]


def in_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Places of samples, so many at a time, those of about the same length together.

    The longest come first: what does not fit the memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def filled(rows: Sequence[Row], size: int) -> list[Row]:
    """The rows of a batch, the first repeated until there are so many.

    Their number decides what is compiled.
    """
    return [*rows, *[rows[0]] * (size - len(rows))]


def models_of(
    config: EvaluateConfig,
    *,
    longest: int = 0,
    setting: str = "",
    allow_extrapolation: bool = False,
) -> Iterator[CheckpointModel]:
    """The models of a config, read one after the other.

    All are looked at before, so that what does not suit one is known before another is asked.

    Args:
      config: names them.
      longest: tokens of the longest text that they are asked about.
      setting: that asks for it, for messages.
      allow_extrapolation: whether that may be longer than a model was made for.

    Raises:
      ConfigError: where a text is too long for a model, or it has learned no text; and, when it
        is read, where its tokenizer is not the one of its training.
      UserError: where a checkpoint cannot be read.
    """
    folders = folders_of(
        config, longest=longest, setting=setting, allow_extrapolation=allow_extrapolation
    )
    return (
        _read(folder, name, config, longest)
        for folder, name in zip(folders, names_of(folders), strict=True)
    )


def folders_of(
    config: EvaluateConfig,
    *,
    longest: int = 0,
    setting: str = "",
    allow_extrapolation: bool = False,
) -> list[Path]:
    """Where the checkpoints of a config are, looked at and not read; arguments of `models_of`.

    Each is there once, however it is named.

    Raises:
      ConfigError: where a text is too long for a model, or it has learned no text.
      UserError: where there is no checkpoint.
    """
    described = described_on("text", config)
    for one in described:
        if longest > one.length and not allow_extrapolation:
            raise ConfigError(
                f"{setting} {longest:,}: checkpoint {one.folder} is made for {one.length:,} "
                "tokens; ask for less, or give --allow_extrapolation"
            )
    return list({one.folder.resolve(): one.folder for one in described}.values())


def described_on(source: str, config: EvaluateConfig) -> list[Description]:
    """What the checkpoints of a config say of themselves, which must be trained on a data source.

    Raises:
      ConfigError: where one was trained on another.
      UserError: where there is no checkpoint.
    """
    described = [describe_weights(place, "checkpoint") for place in checkpoints_of(config)]
    for one in described:
        found = one.program.config.data.source
        if found != source:
            raise ConfigError(
                f"checkpoint {one.folder}: was trained on data.source {found}, not on {source}"
            )
    return described


def _read(folder: Path, name: str, config: EvaluateConfig, longest: int) -> CheckpointModel:
    saved = read_weights(folder, "checkpoint")
    run = saved.program.config
    # As many tokens at a time as in training.
    at_a_time = run.held_out_rows * run.data.row_length // max(longest, run.data.row_length)
    return CheckpointModel(
        name=name,
        kind=kind_of(saved),
        step=saved.step,
        folder=folder,
        context_length=saved.length,
        language_model=language_model_of(saved, context_length=_NO_LIMIT),
        batch_size=config.batch_size or max(at_a_time, 1),
        answers=_kept_answers(config, saved),
    )


def _kept_answers(config: EvaluateConfig, saved: SavedWeights) -> KeptAnswers:
    if config.output is None:
        return KeptAnswers()
    made = made_with(num_devices=1)
    # It may go on after midnight.
    del made["date"]
    depends_on = made | {
        "model": plain(saved.program.config.model),
        "tokenizer": saved.tokenizer,
        "weights": [int(x) for x in checksums(saved.params)],
    }
    return KeptAnswers(answers_file(Path(config.output)), depends_on)


def kind_of(saved: SavedWeights) -> str:
    """Kind of attention of a model, "mixed" where layers have different ones."""
    kind = saved.program.config.model.attention
    return kind if isinstance(kind, str) else "mixed"


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each checkpoint: as much of its run's path as tells it from the others.

    Checkpoints of one run are told apart by their steps.
    """
    names = short_names([owner_of(folder) for folder in folders])
    return [
        f"{name}@{folder.name}" if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """As much of each path as tells it from the others."""
    paths = [folder.absolute() for folder in folders]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]
