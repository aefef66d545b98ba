"""What the runs are, and how they learned."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mta_jax import viz
from mta_jax.command_line.plain import plain
from mta_jax.evaluate.grid import Grid
from mta_jax.evaluate.report.document import Block, Paragraph, Section, drawn
from mta_jax.evaluate.report.parts import in_parts
from mta_jax.evaluate.report.runs import Run
from mta_jax.training.pictures import curves_of
from mta_jax.training.run_folder import CONFIG_FILE
from mta_jax.viz.style import STYLES

# The names of the runs tell it.
_NOT_TOLD = {"run_dir"}

_MADE_WITH = ("commit", "device", "jax")

# Columns of a table that a page has room for.
_RUNS_ACROSS = 6


def runs_section(runs: Sequence[Run]) -> Section:
    """What the runs are, what they took, and the settings in which they differ."""
    return Section("Runs", [_overview(runs), _cost(runs), *_differences(runs)])


def curves_section(runs: Sequence[Run]) -> Section:
    """Learning curves, as many runs in a picture as can be told apart."""
    blocks: list[Block] = [
        Paragraph(f"{run.name} has recorded nothing yet.") for run in runs if not run.rows
    ]
    for learns_text in (False, True):
        begun = {run.name: run.rows for run in runs if run.rows and run.learns_text == learns_text}
        for names in in_parts(begun, len(STYLES)):
            own = {name: begun[name] for name in names}
            figure = viz.learning_curves(own, curves_of(own))
            blocks.append(drawn("curves", figure, f"Learning curves of {', '.join(names)}."))
    return Section("Learning curves", blocks)


def _overview(runs: Sequence[Run]) -> Grid:
    return Grid(
        title="What they are",
        columns=["run", "attention", "model", "data", "seed"],
        rows=[[run.name, run.kind, _model(run), _data(run), str(run.config.seed)] for run in runs],
        num_words=4,
    )


def _cost(runs: Sequence[Run]) -> Grid:
    rows = []
    for run in runs:
        planned = run.config.num_steps
        rows.append(
            [
                run.name,
                f"{run.num_params:,}",
                f"{run.step:,}" + (f" of {planned:,}" if run.step < planned else ""),
                f"{run.tokens:,}",
                f"{run.seconds:,.0f}",
                f"{run.tokens_per_second:,.0f}",
                *(str(run.made_with.get(name) or "") for name in _MADE_WITH),
            ]
        )
    return Grid(
        title="What they took",
        columns=[
            *("run", "parameters", "steps", "tokens seen", "seconds", "tokens/s at the end"),
            *_MADE_WITH,
        ],
        rows=rows,
        note=(
            "Tokens are those of all rows, padding included. Seconds are those of training, "
            "without evaluations. Commit, device and jax are those that a run ended with."
        ),
    )


def _model(run: Run) -> str:
    model = run.config.model
    return f"{model.num_layers} layers of width {model.embed_dim}, {model.num_heads} heads"


def _data(run: Run) -> str:
    data = run.config.data
    if run.learns_text:
        return f"text: {', '.join(data.text.domains)}"
    task = data.block_search
    return f"block search, N={task.block_size} {task.answer}, {task.num_blocks} blocks"


def _differences(runs: Sequence[Run]) -> list[Block]:
    if len(runs) == 1:
        return [Paragraph(f"All settings are in {runs[0].folder / CONFIG_FILE}.")]
    settings = {run.name: _settings(run) for run in runs}
    names = dict.fromkeys(name for own in settings.values() for name in own)
    differing = [
        name
        for name in names
        if name not in _NOT_TOLD
        and len({own[name] for own in settings.values() if name in own}) > 1
    ]
    if not differing:
        return [Paragraph("The runs have the same settings.")]
    return [
        Grid(
            title="Settings in which they differ",
            columns=["setting", *part],
            rows=[[name, *(settings[run].get(name, "") for run in part)] for name in differing],
            num_words=1 + len(part),
        )
        for part in in_parts(settings, _RUNS_ACROSS)
    ]


def _settings(run: Run) -> dict[str, str]:
    """Those that matter: the data's of the other source do not."""
    settings = plain(run.config)
    del settings["data"]["block_search" if run.learns_text else "text"]
    return flat(settings)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings in sections as words, by their names on the command line."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found
