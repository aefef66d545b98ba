"""The evaluation: every cell, of every model."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from mta_jax import viz
from mta_jax.data import split_tokens
from mta_jax.data.haystack import Haystack, load_haystack
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.needle.config import NeedleConfig
from mta_jax.evaluate.needle.samples import Cell, Contexts, choices_for
from mta_jax.evaluate.needle.scoring import right_in_text
from mta_jax.evaluate.task import Findings, run_task
from mta_jax.evaluate.text_model import TextModel, likeliest, models_of

_MEASURES = {"generated": "greedy decoding", "likeliest": "the likeliest of the choices"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell of one model.

    Attributes:
      model: its name.
      kind: of attention.
      length, num_needles, num_asked, depth: the cell.
      samples: how many.
      generated: share of the numbers asked for that greedy decoding tells.
      likeliest: share of them that are the likeliest of the choices.
      chance: what guessing among the choices gives, as a share.
    """

    model: str
    kind: str
    length: int
    num_needles: int
    num_asked: int
    depth: float
    samples: int
    generated: float
    likeliest: float
    chance: float


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0."""
    return run_task(
        "needle",
        NeedleConfig,
        evaluate_needle,
        arguments,
        description="Numbers of cities, hidden in running text.",
    )


def evaluate_needle(config: NeedleConfig) -> Findings:
    """All cells of all checkpoints.

    Raises:
      ConfigError: where a context does not fit a model, or the haystack.
      UserError: where a checkpoint or the haystack cannot be read.
    """
    models = models_of(
        config,
        longest=max(config.lengths),
        setting="lengths",
        allow_extrapolation=config.allow_extrapolation,
    )
    haystack = load_haystack(config.haystack_locations, setting="haystack", field=config.field)
    rows: list[Row] = []
    samples: list[dict[str, Any]] = []
    for model in models:
        own_rows, own_samples = evaluate_model(model, config, haystack)
        rows += own_rows
        samples += own_samples
        # Before the next is read.
        del model
    return Findings(
        tables=tables(config, rows),
        rows=[dataclasses.asdict(row) for row in rows],
        samples=samples,
        pictures=pictures(rows),
    )


def evaluate_model(
    model: TextModel, config: NeedleConfig, haystack: Haystack
) -> tuple[list[Row], list[dict[str, Any]]]:
    """All cells of one model: the figures, and a line for each sample.

    Raises:
      ConfigError: where a length has no room for its needles, or the haystack is too short.
    """
    contexts = Contexts(haystack, model.tokenizer)
    cells = list(_cells(config))
    for cell in cells:
        # What cannot be done is known before anything is.
        contexts.check(cell)
    rows, samples = [], []
    with Progress(transient=True) as progress:
        steps = len(cells) * config.samples * (1 + config.asked)
        task = progress.add_task(model.name, total=steps)
        for cell in cells:
            found = _ask(model, config, contexts, cell, lambda n: progress.advance(task, n))
            samples += [{"model": model.name, **sample} for sample in found]
            rows.append(_row(model, cell, found))
    return rows, samples


def _cells(config: NeedleConfig) -> Iterator[Cell]:
    for length, num_needles, depth in itertools.product(
        config.lengths, config.needles, config.depths
    ):
        yield Cell(length, num_needles, config.asked, depth, config.digits)


def _ask(
    model: TextModel,
    config: NeedleConfig,
    contexts: Contexts,
    cell: Cell,
    advance: Callable[[int], None],
) -> list[dict[str, Any]]:
    """What the model answers to each sample of a cell."""
    seed, numbers = config.seed, range(config.samples)
    drawn = [contexts.draw(cell, seed=seed, sample=number) for number in numbers]
    prompts = [context.prompt for context in drawn]
    longest = max(
        len(split_tokens(model.tokenizer, context.prompt, [context.answer])[1][0])
        for context in drawn
    )
    texts = model.generate(prompts, max_new_tokens=longest, stop=["\n"], advance=advance)
    choices = [
        choices_for(context, cell, seed=seed, sample=number) for number, context in enumerate(drawn)
    ]
    continuations = [[f" {choice}" for choice in own] for own in choices]
    guesses: list[list[str]] = [[] for _ in drawn]
    for place in range(cell.num_asked):
        scores = model.score(
            [context.prompt_for(place) for context in drawn], continuations, advance=advance
        )
        for guessed, own, of_sample in zip(guesses, choices, scores, strict=True):
            guessed.append(likeliest(own, of_sample))
    return [
        {
            **contexts.recipe(cell, context, seed=seed, sample=number),
            "asked": [{"city": city, "number": value} for city, value in context.asked],
            "found_at": round(context.depth, 4),
            "generated": text,
            "generated_right": right_in_text(context, text),
            "likeliest": guessed,
            "likeliest_right": [
                guess == value for guess, (_, value) in zip(guessed, context.asked, strict=True)
            ],
            "num_choices": len(own),
        }
        for number, context, text, guessed, own in zip(
            numbers, drawn, texts, guesses, choices, strict=True
        )
    ]


def _row(model: TextModel, cell: Cell, found: Sequence[Mapping[str, Any]]) -> Row:
    def share(name: str) -> float:
        return statistics.fmean(right for sample in found for right in sample[name])

    return Row(
        model=model.name,
        kind=model.kind,
        length=cell.length,
        num_needles=cell.num_needles,
        num_asked=cell.num_asked,
        depth=cell.depth,
        samples=len(found),
        generated=share("generated_right"),
        likeliest=share("likeliest_right"),
        chance=statistics.fmean(1 / sample["num_choices"] for sample in found),
    )


def tables(config: NeedleConfig, rows: Sequence[Row]) -> list[Grid]:
    """Right answers by number of needles, a table for each measure."""
    return [_grid(config, rows, measure) for measure in _MEASURES]


def _grid(config: NeedleConfig, rows: Sequence[Row], measure: str) -> Grid:
    """Right answers by model and number of needles, means over depths."""
    cells: list[list[str]] = []
    for length, model in itertools.product(config.lengths, dict.fromkeys(r.model for r in rows)):
        own = [row for row in rows if (row.length, row.model) == (length, model)]
        means = [
            statistics.fmean(getattr(row, measure) for row in own if row.num_needles == needles)
            for needles in config.needles
        ]
        shown = [f"{100 * mean:.1f} %" for mean in means]
        cells.append([f"{length:,} tokens", model, own[0].kind, *shown])
    chance = ""
    if measure == "likeliest":
        least, most = (f(round(100 * row.chance) for row in rows) for f in (min, max))
        chance = f"; guessing gives {least if least == most else f'{least} to {most}'} %"
    return Grid(
        title=f"Needles found, {_MEASURES[measure]}",
        columns=["context", "model", "attention", *map(_of_needles, config.needles)],
        rows=cells,
        num_words=3,
        note=f"{config.asked} asked for; means over depths, {config.samples} samples each{chance}.",
    )


def pictures(rows: Sequence[Row]) -> dict[str, Figure]:
    """A heat map for each model and measure."""
    figures = {}
    for model, measure in itertools.product(dict.fromkeys(row.model for row in rows), _MEASURES):
        own = [row for row in rows if row.model == model]
        depths = sorted({row.depth for row in own})
        lengths = sorted({row.length for row in own})
        panels = {}
        for needles in dict.fromkeys(row.num_needles for row in own):
            shares = np.full((len(depths), len(lengths)), np.nan)
            for row in own:
                if row.num_needles == needles:
                    place = depths.index(row.depth), lengths.index(row.length)
                    shares[place] = getattr(row, measure)
            panels[_of_needles(needles)] = shares
        count = own[0].num_asked
        asked = f" ({count} asked for, the first at this depth)" if count > 1 else ""
        name = f"{model.replace('/', '_')}_{measure}"
        figures[name] = viz.needle_heat_map(
            panels, depths=depths, lengths=lengths, title=f"{model}: {_MEASURES[measure]}{asked}"
        )
    return figures


def _of_needles(count: int) -> str:
    return f"{count} needle" if count == 1 else f"{count} needles"
