"""LAMBADA: the last word of a passage, given the rest (https://arxiv.org/abs/1606.06031)."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mta_jax.command_line.live_line import LiveLine
from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.grid import Grid, spelled
from mta_jax.evaluate.pair_scores import encoded_pair, score_pairs
from mta_jax.evaluate.paper import TABLE_4, TABLE_4_COLUMNS
from mta_jax.evaluate.task import Findings, run_task
from mta_jax.evaluate.text_model import CheckpointModel, models_of
from mta_jax.evaluate.texts import read_texts
from mta_jax.inference import Score

_DATA = {
    "openai": "hf:EleutherAI/lambada_openai?name=default&split=test",
    "standard": "hf:cimec/lambada?split=test",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LambadaConfig(EvaluateConfig):
    """Which passages, and which models read them."""

    data: str | list[str] | None = None
    """Passages: JSON lines, one each, files, folders, globs or hf:NAME; null: those of the
    variant on the Hugging Face hub."""

    field: str = "text"
    """Field or column that holds a passage."""

    variant: Literal["openai", "standard"] = "openai"
    """openai: passages as they were written; standard: as they were published first, in lower
    case, with spaces between all tokens. A name for the table, and where data is null, which ones
    are read."""

    limit: int | None = None
    """Only so many passages, the first ones; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit}: must be at least 1, or null")
        if self.data == []:
            raise ValueError("data []: name at least one file, or null")

    @property
    def locations(self) -> list[str]:
        """Of the passages."""
        if self.data is None:
            return [_DATA[self.variant]]
        return [self.data] if isinstance(self.data, str) else self.data


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage, cut before its last word.

    Attributes:
      name: where it is from.
      context: all before the last word, without white space at its end.
      target: the rest: white space and the last word.
    """

    name: str
    context: str
    target: str


def passage_of(name: str, text: str) -> Passage:
    """Cuts a passage at its last space.

    Raises:
      UserError: where there is no word on both sides.
    """
    context = text.rpartition(" ")[0].rstrip()
    target = text[len(context) :]
    if not context or not target.strip():
        raise UserError(
            f"data {name}: expected a passage that ends in a space and a word, found {text[-40:]!r}"
        )
    return Passage(name, context, target)


def read_passages(config: LambadaConfig) -> list[Passage]:
    """The passages of a config.

    Raises:
      ConfigError: where there are none at a location; says where to get them.
      UserError: where one cannot be read, or has less than two words.
    """
    try:
        texts = read_texts(config.locations, field=config.field, setting="data", limit=config.limit)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; the passages are on huggingface.co/datasets/EleutherAI/lambada_openai and "
            "huggingface.co/datasets/cimec/lambada: --data FILE.jsonl takes them from a file"
        ) from None
    return [passage_of(name, text) for name, text in texts]


def figures_of(scores: Sequence[Score]) -> dict[str, float]:
    """What is reported of the scores of all last words.

    Returns:
      ``perplexity``, exp of the mean negative log-likelihood of a whole word, and ``accuracy``,
      the share of words that greedy decoding writes.
    """
    nll = -statistics.fmean(score.log_prob for score in scores)
    return {
        # The largest number that a float holds is near exp(709).
        "perplexity": math.exp(min(nll, 700.0)),
        "accuracy": statistics.fmean(score.is_greedy for score in scores),
    }


def score_passages(model: CheckpointModel, passages: Sequence[Passage]) -> list[Score]:
    """Scores of the last words; passages too long for the model lose their beginning."""
    with LiveLine(model.name, len(passages), unit="passages") as progress:
        return score_pairs(
            model.language_model,
            [encoded_pair(model.tokenizer, one.context, one.target) for one in passages],
            context_length=model.context_length,
            batch_size=model.batch_size,
            advance=progress.advance,
        )


def evaluate_lambada(config: LambadaConfig) -> Findings:
    """Figures of all models, and what became of each passage.

    Raises:
      ConfigError: where a setting does not suit a checkpoint, or there are no passages.
      UserError: where a checkpoint or a passage cannot be read.
    """
    passages = read_passages(config)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for model in models_of(config):
        scores = score_passages(model, passages)
        rows.append(
            {
                "model": model.name,
                "kind": model.kind,
                "checkpoint": str(model.folder),
                "step": model.step,
                "variant": config.variant,
                "passages": len(passages),
                **figures_of(scores),
            }
        )
        samples += [
            {
                "model": model.name,
                "passage": passage.name,
                "target": passage.target,
                "tokens": score.num_tokens,
                "nll": -score.log_prob,
                "is_right": score.is_greedy,
            }
            for passage, score in zip(passages, scores, strict=True)
        ]
        # Before the next is read.
        del model
    return Findings(tables=[_table(config, rows)], rows=rows, samples=samples)


def _table(config: LambadaConfig, rows: Sequence[Mapping[str, Any]]) -> Grid:
    return Grid(
        title=f"LAMBADA ({config.variant}): the last word of each passage",
        columns=["checkpoint", "kind", "passages", "perplexity", "accuracy"],
        rows=[
            [
                f"{row['model']}, step {row['step']:,}",
                row["kind"],
                f"{row['passages']:,}",
                spelled(row["perplexity"], 2),
                f"{row['accuracy']:.1%}",
            ]
            for row in rows
        ],
        num_words=2,
        note=f"In the paper (table 4, 880M, perplexity; {' / '.join(TABLE_4_COLUMNS)}): {_paper()}",
    )


def _paper() -> str:
    lines = {kind: " / ".join(map(str, figures)) for kind, figures in TABLE_4.items()}
    return ", ".join(f"{kind} {figures}" for kind, figures in lines.items())


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    return run_task(
        "lambada",
        LambadaConfig,
        evaluate_lambada,
        arguments,
        description="The last word of passages (LAMBADA): perplexity and accuracy.",
    )
