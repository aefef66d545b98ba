import dataclasses

import pytest

from mta_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    SafetyConfig,
    SampleConfig,
    TrainConfig,
    runs_of,
)
from tests.training.tiny import toy_config


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (OptimizerConfig, "learning_rate", 0.0),
        (OptimizerConfig, "learning_rate", float("nan")),
        (OptimizerConfig, "warmup_steps", -1),
        (OptimizerConfig, "weight_decay", -0.1),
        (OptimizerConfig, "beta1", 1.0),
        (OptimizerConfig, "beta2", -0.1),
        (OptimizerConfig, "clip_norm", 0.0),
        (CheckpointConfig, "every", 0),
        (CheckpointConfig, "keep", 0),
        (OptimizerConfig, "ema_decay", 1.0),
        (SafetyConfig, "spike_ratio", 1.0),
        (SafetyConfig, "max_skips", 0),
        (SampleConfig, "every", 0),
        (SampleConfig, "num_tokens", 0),
        (SampleConfig, "temperature", -1.0),
        (TrainConfig, "num_steps", 0),
        (TrainConfig, "log_every", 0),
        (TrainConfig, "evaluate_every", 0),
        (TrainConfig, "seed", -1),
    ],
)
def test_a_value_out_of_range_is_named(section, field, value):
    with pytest.raises(ValueError, match=rf"{field} {value}: must be"):
        section(**{field: value})


def test_a_checkpoint_never_tears_a_line_of_metrics():
    with pytest.raises(ValueError, match=r"checkpoint\.every 5: must be a multiple of log_every 2"):
        toy_config(checkpoint=CheckpointConfig(every=5))


def test_warmup_fits_into_the_run():
    with pytest.raises(ValueError, match=r"warmup_steps 20: must be at most num_steps 12"):
        toy_config(optimizer=OptimizerConfig(warmup_steps=20))


@pytest.mark.parametrize("kinds", [[], ["mta", "mta"]])
def test_a_comparison_names_each_kind_once(kinds):
    with pytest.raises(ValueError, match="compare"):
        toy_config(compare=kinds)


def test_only_text_writes_samples():
    with pytest.raises(ValueError, match=r"sample\.every 2: only data\.source 'text'"):
        toy_config(sample=SampleConfig(every=2))


def test_a_kind_beside_a_comparison_would_be_ignored():
    model = dataclasses.replace(toy_config().model, attention="diff")
    with pytest.raises(ValueError, match=r"model\.attention diff: has no effect"):
        toy_config(compare=["mta", "transformer"], model=model)


def test_the_runs_of_a_comparison_differ_in_their_attention_and_folder_only():
    config = toy_config(compare=["mta", "diff"])
    run = runs_of(config)["diff"]
    assert run.model.attention == "diff"
    assert run.compare is None
    same = dataclasses.replace(run.model, attention="mta")
    assert run.run_dir == f"{config.run_dir}/diff"
    again = dataclasses.replace(run, model=same, compare=config.compare, run_dir=config.run_dir)
    assert again == config
