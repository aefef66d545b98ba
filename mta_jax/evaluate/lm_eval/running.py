"""Tasks of lm-evaluation-harness, asked of checkpoints."""

import json
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval
import numpy as np
from lm_eval.utils import handle_non_serializable

from mta_jax.evaluate.grid import Grid, spelled
from mta_jax.evaluate.lm_eval.adapter import HarnessModel
from mta_jax.evaluate.lm_eval.config import LmEvalConfig
from mta_jax.evaluate.lm_eval.loading import Loaded, load_tasks
from mta_jax.evaluate.lm_eval.paper import beside_the_paper
from mta_jax.evaluate.task import Findings
from mta_jax.evaluate.text_model import CheckpointModel, models_of

# The harness's own.
_SEED, _NUMPY_SEED, _FEWSHOT_SEED = 0, 1234, 1234


def evaluate_tasks(config: LmEvalConfig) -> Findings:
    """Figures of all tasks and models.

    Raises:
      ConfigError: where there is no such task, or a setting does not suit a checkpoint.
      UserError: where a checkpoint or the data of a task cannot be read.
    """
    # It says which defaults it takes, line by line.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # They are looked at before data is fetched for them.
    models = models_of(
        config,
        longest=config.context_length or 0,
        setting="context_length",
        allow_extrapolation=config.allow_extrapolation,
    )
    loaded = load_tasks(config)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for model in models:
        results = harness_results(model, loaded, config)
        rows += _rows(model, results)
        samples += _samples(model, results)
        # Before the next is read; the results name it.
        del model, results
    tables = [_table(config, rows, _within_groups(loaded))]
    if config.preset == "paper":
        tables.append(beside_the_paper(rows))
    return Findings(tables=tables, rows=rows, samples=samples)


def harness_results(model: CheckpointModel, loaded: Loaded, config: LmEvalConfig) -> dict[str, Any]:
    """What the harness returns for one model."""
    random.seed(_SEED)
    np.random.seed(_NUMPY_SEED)
    for task in loaded["tasks"].values():
        # Each model gets the same examples.
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    adapter = HarnessModel(model, context_length=config.context_length, seed=config.seed)
    return lm_eval.evaluate(
        lm=adapter,
        task_dict=loaded,
        limit=config.limit,
        # Its pool of processes can hang beside JAX's threads.
        bootstrap_iters=0,
        log_samples=config.output is not None,
    )


def _rows(model: CheckpointModel, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for task, figures in results["results"].items():
        for name, value in figures.items():
            metric, comma, which = name.partition(",")
            if not comma or isinstance(value, str):
                continue
            rows.append(
                {
                    "model": model.name,
                    "kind": model.kind,
                    "checkpoint": str(model.folder),
                    "step": model.step,
                    "task": task,
                    "version": results["versions"].get(task),
                    "num_fewshot": results["n-shot"].get(task),
                    "questions": results["n-samples"].get(task, {}).get("effective"),
                    "metric": metric,
                    "filter": which,
                    "value": float(value),
                }
            )
    return rows


def _samples(model: CheckpointModel, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answers and what they count, without the texts of the questions."""
    wanted = ("doc_id", "target", "filter", "filtered_resps")
    found = []
    for task, samples in results.get("samples", {}).items():
        for sample in samples:
            names = [*wanted, *sample["metrics"]]
            values = {name: sample[name] for name in names}
            plain = json.loads(json.dumps(values, default=handle_non_serializable))
            found.append({"model": model.name, "task": task, **plain})
    return found


def _within_groups(loaded: Loaded) -> set[str]:
    """Tasks and groups that are parts of a group."""
    return {child for children in loaded["group_map"].values() for child in children}


def _table(config: LmEvalConfig, rows: Sequence[Mapping[str, Any]], hidden: set[str]) -> Grid:
    lines: list[list[str]] = []
    shown: tuple[str, str] | None = None
    for row in rows:
        if row["task"] in hidden:
            continue
        here = (row["model"], row["task"])
        is_new_model, is_new_task = shown is None or here[0] != shown[0], here != shown
        shown = here
        shots = f", {row['num_fewshot']}-shot" if row["num_fewshot"] else ""
        which = "" if row["filter"] == "none" else f" ({row['filter']})"
        lines.append(
            [
                f"{row['model']}, step {row['step']:,}" if is_new_model else "",
                row["kind"] if is_new_model else "",
                row["task"] + shots if is_new_task else "",
                row["metric"] + which,
                f"{row['questions']:,}" if row["questions"] and is_new_task else "",
                spelled(row["value"], 4),
            ]
        )
    note = f"The first {config.limit:,} questions of each task only." if config.limit else ""
    return Grid(
        title=f"lm-evaluation-harness {lm_eval.__version__}",
        columns=["checkpoint", "kind", "task", "metric", "questions", "value"],
        rows=lines,
        num_words=4,
        note=note,
    )
