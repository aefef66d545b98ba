"""Evaluations as the real writer leaves them, without the work."""

import dataclasses

from matplotlib.figure import Figure

from mta_jax.evaluate.config import EvaluateConfig
from mta_jax.evaluate.needle.config import NeedleConfig
from mta_jax.evaluate.task import Findings, write_findings
from mta_jax.evaluate.toy import ToyConfig

MADE = {
    "command": "python -m mta_jax.evaluate it",
    "mta_jax": "0.1.0",
    "commit": "0123456789ab",
    "device": "1 x TPU v5e (x86_64)",
    "jax": "0.10.2",
    "flax": "0.12.8",
    "python": "3.11.7",
    "date": "2026-01-31",
    "seconds": 12.5,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyConfig(EvaluateConfig):
    """Settings of a task whose own ones do not matter."""

    seed: int = 0
    protocol: str = "strided"


def write(folder, task, rows, *, config=None, pictures=()):
    """Writes the folder of an evaluation."""
    drawn = {}
    for name in pictures:
        drawn[name] = Figure(figsize=(1, 1))
        drawn[name].subplots()
    findings = Findings(tables=[], rows=rows, pictures=drawn)
    write_findings(folder, task, config or AnyConfig(checkpoint="run", seed=7), findings, MADE)
    return folder


def toy(folder, name="<b>"):
    """Two seeds of one kind in a column of the paper's, one run in another column."""
    shared = {
        "model": name,
        "kind": "mta",
        "num_blocks": 9,
        "step": 30,
        "samples": 1000,
        "loss": 0.5,
    }
    cells = [(5, "all", 0, 10), (5, "all", 1, 30), (3, "all", 0, 444)]
    rows = [
        {
            **shared,
            "block_size": size,
            "answer": answer,
            "seed": seed,
            "wrong": wrong,
            "error": wrong / 1000,
        }
        for size, answer, seed, wrong in cells
    ]
    config = ToyConfig(checkpoint="run", seed=7)
    return write(folder, "toy", rows, config=config, pictures=["errors"])


def perplexity(folder, domains, name="m&m"):
    """One model, a domain after the other, and their mean where there are several."""
    rows = [
        {
            "name": name,
            "checkpoint": "runs/a",
            "kind": "mta",
            "step": 30,
            "domain": domain,
            "tokens": 1000,
            "text_bytes": 4000,
            "loss": 1.0,
            "perplexity": value,
            "bits_per_byte": value / 10,
        }
        for domain, value in domains.items()
    ]
    return write(folder, "perplexity", rows)


def lm_eval(folder, accuracies):
    """Accuracies by task, and a figure that is none."""
    shared = {"model": "a", "kind": "diff", "checkpoint": "runs/a", "step": 3, "filter": "none"}
    rows = [
        {**shared, "task": task, "metric": "acc", "value": value}
        for task, value in accuracies.items()
    ]
    rows.append({**shared, "task": "wikitext", "metric": "word_perplexity", "value": 345678.9})
    rows.append({**shared, "task": "mmlu_law", "metric": "acc", "value": 0.999})
    return write(folder, "lm_eval", rows)


def lambada(folder):
    """One model on one variant."""
    row = {
        "model": "a",
        "kind": "mta",
        "checkpoint": "runs/a",
        "step": 3,
        "variant": "openai",
        "passages": 5153,
        "perplexity": 77.123,
        "accuracy": 0.234,
    }
    return write(folder, "lambada", [row])


def needle(folder):
    """Two depths of one cell."""
    rows = [
        {
            "model": "a",
            "kind": "mta",
            "length": 600,
            "num_needles": 2,
            "num_asked": 1,
            "depth": depth,
            "samples": 40,
            "generated": share,
            "likeliest": 0.5,
            "chance": 0.1,
        }
        for depth, share in ((0.0, 0.25), (100.0, 0.75))
    ]
    config = NeedleConfig(checkpoint="run", lengths=[600], needles=[2], depths=[0.0, 100.0])
    return write(folder, "needle", rows, config=config, pictures=["a_generated"])


def babilong(folder):
    """One task and the average at two lengths."""
    rows = [
        {
            "model": "a",
            "kind": "mta",
            "source": "bAbI",
            "length": length,
            "task": task,
            "samples": 10,
            "tokens": 500.0,
            "generated": 0.125,
            "likeliest": 0.375,
            "chance": 1 / 6,
        }
        for length in (0, 1024)
        for task in ("QA1", "average")
    ]
    return write(folder, "babilong", rows, pictures=["accuracy_generated"])
