"""Asks models, and counts what they answer right."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.progress import Progress

from mta_jax.data.haystack import Haystack, load_haystack
from mta_jax.errors import ConfigError
from mta_jax.evaluate.babilong.config import BabilongConfig
from mta_jax.evaluate.babilong.contexts import Background
from mta_jax.evaluate.babilong.files import BabiFiles
from mta_jax.evaluate.babilong.generator import GeneratedStories
from mta_jax.evaluate.babilong.prompts import answers
from mta_jax.evaluate.babilong.report import findings_of
from mta_jax.evaluate.babilong.samples import Sample, SampleMaker
from mta_jax.evaluate.babilong.scoring import is_right
from mta_jax.evaluate.babilong.tasks import TASKS, Stories
from mta_jax.evaluate.task import Findings, run_task
from mta_jax.evaluate.text_model import TextModel, likeliest, models_of
from mta_jax.inference import Score


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    return run_task(
        "babilong",
        BabilongConfig,
        evaluate_babilong,
        arguments,
        description="Questions about facts that are hidden in a long text: BABILong, QA1 to QA5.",
    )


def evaluate_babilong(config: BabilongConfig) -> Findings:
    """Asks all models of a config.

    Raises:
      ConfigError: where a setting does not suit a checkpoint.
      UserError: where a checkpoint or a text cannot be read.
    """
    stories = stories_of(config)
    models = models_of(
        config,
        longest=max(config.lengths),
        setting="lengths",
        allow_extrapolation=config.allow_extrapolation,
    )
    haystack = haystack_of(config)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for model in models:
        own = ask(model, config, stories=stories, haystack=haystack)
        if any(row["tokens"] > model.context_length for row in own):
            notes.append(
                f"{model.name} was made for {model.context_length:,} tokens; beyond, it "
                "extrapolates."
            )
        rows += own
        # Before the next is read.
        del model
    return findings_of(rows, note=" ".join(notes))


def stories_of(config: BabilongConfig) -> Stories:
    """Where the facts of a config are from.

    Raises:
      ConfigError: where bAbI's files are missing.
      UserError: where they are damaged.
    """
    if config.babi is None:
        return GeneratedStories()
    return BabiFiles(config.babi, config.split, [TASKS[number] for number in config.tasks])


def haystack_of(config: BabilongConfig) -> Haystack | None:
    """What the facts of a config are hidden in; None where they stand alone.

    Raises:
      ConfigError: where it names nothing, or nothing that is text.
      UserError: where a file is damaged.
    """
    if not any(config.lengths):
        return None
    return load_haystack(config.haystack_locations, setting="haystack", field=config.field)


def ask(
    model: TextModel, config: BabilongConfig, *, stories: Stories, haystack: Haystack | None
) -> list[dict[str, Any]]:
    """Asks one model, the longest texts first.

    Args:
      model: the model.
      config: what is asked.
      stories: where facts are from.
      haystack: what they are hidden in.

    Returns:
      What each sample was, and what became of it, as plain values.

    Raises:
      ConfigError: where samples do not fit the model, or there are too few, or too little text.
    """
    maker = SampleMaker(
        stories=stories,
        background=Background(haystack, model.tokenizer) if haystack else None,
        tokenizer=model.tokenizer,
        seed=config.seed,
        shots=config.shots,
        max_new_tokens=config.max_new_tokens,
    )
    # The same stories at every length: what differs is the distraction.
    shortest = min(filter(None, config.lengths), default=0)
    chosen = {
        number: maker.choose(TASKS[number], config.samples, length=shortest)
        for number in config.tasks
    }
    rows: list[dict[str, Any]] = []
    with Progress(transient=True) as progress:
        total = 2 * len(config.lengths) * len(config.tasks) * config.samples
        bar = progress.add_task(model.name, total=total)
        for length in sorted(config.lengths, reverse=True):
            samples = [
                maker.make(TASKS[number], length=length, index=index, number=story)
                for number, of_task in chosen.items()
                for index, story in enumerate(of_task)
            ]
            if not config.allow_extrapolation:
                _check_fit(model, samples)
            rows += _asked(model, maker, samples, lambda count: progress.update(bar, advance=count))
    return rows


def _asked(
    model: TextModel, maker: SampleMaker, samples: list[Sample], advance: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    prompts = [sample.prompt for sample in samples]
    written = model.generate(
        prompts, max_new_tokens=maker.max_new_tokens, stop=(".",), advance=advance
    )
    choices = [answers(sample.task.labels) for sample in samples]
    scores = model.score(prompts, choices, advance=advance)
    for sample, text, own in zip(samples, written, scores, strict=True):
        yield (
            {"model": model.name, "kind": model.kind}
            | maker.origin(sample)
            | _judged(sample, text, own)
        )


def _judged(sample: Sample, text: str, scores: list[Score]) -> dict[str, Any]:
    story, labels = sample.story, sample.task.labels
    choice = likeliest(labels, scores)
    return {
        "tokens": sample.num_tokens,
        "question": story.question,
        "answer": story.answer,
        "generated": text,
        "generated_right": is_right(
            text, question=story.question, target=story.answer, labels=labels
        ),
        "likeliest": choice,
        "likeliest_right": choice == story.answer,
        "log_probs": {
            label: round(score.log_prob, 4) for label, score in zip(labels, scores, strict=True)
        },
    }


def _check_fit(model: TextModel, samples: list[Sample]) -> None:
    longest = max(samples, key=lambda sample: sample.num_tokens)
    if longest.num_tokens > model.context_length:
        raise ConfigError(
            f"lengths {longest.length:,}: a story of {longest.task.name} with its prompt has "
            f"{longest.num_tokens:,} tokens, and {model.name} is made for "
            f"{model.context_length:,}; give --allow_extrapolation to ask it all the same"
        )
