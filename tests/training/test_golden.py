"""The first losses of the tiny config, on text that never changes."""

import dataclasses
from pathlib import Path

import numpy as np

from mta_jax.command_line import parse
from mta_jax.data import DomainConfig
from mta_jax.training.config import TrainConfig
from mta_jax.training.loop import train

ROOT = Path(__file__).parents[2]

# jax 0.10.2 with flax 0.12.8 on Python 3.11 and jax 0.12.0 with flax 0.12.12 on 3.12 gave the
# same ones to 3e-7.
LOSSES = [5.973627, 6.004481, 5.214091, 4.43253, 4.086113, 3.679338, 3.552347, 3.614132]
# Float32 rounding, which training makes larger with each step.
TOLERANCE = 1e-4


def test_the_first_losses_are_those_recorded(tmp_path):
    file = str(ROOT / "configs" / "lm_tiny_mta.yaml")
    config, _ = parse(TrainConfig, ["--config", file], prog="train.py", description="")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    paragraphs = [part for part in licence.split("\n\n") if part.strip()]
    for number, paragraph in enumerate(paragraphs):
        (tmp_path / f"{number:03}.txt").write_text(paragraph, encoding="utf-8")
    text = dataclasses.replace(
        config.data.text,
        domains={"licence": DomainConfig(train=str(tmp_path))},
        sequence_length=64,
        shuffle_rows=16,
    )
    config = dataclasses.replace(
        config,
        num_steps=8,
        log_every=1,
        evaluate_every=8,
        data=dataclasses.replace(config.data, batch_size=8, text=text),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=4),
        sample=dataclasses.replace(config.sample, every=None),
    )
    rows = train(config, tmp_path / "run", name="lm").rows
    losses = [row["loss"] for row in rows if "loss" in row]
    np.testing.assert_allclose(losses, LOSSES, rtol=TOLERANCE)
