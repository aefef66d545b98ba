"""Runs that take a second."""

import dataclasses
from typing import Any

from mta_jax.data import BlockSearchConfig, DataConfig, DomainConfig, TextConfig
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
)

MTA = MTAConfig(
    pre_kq_kernel_size=(2, 3),
    post_kq_kernel_size=None,
    pre_head_kernel_size=None,
    post_head_kernel_size=2,
    group_norm="gate",
)


def toy_config(**changes: Any) -> TrainConfig:
    """Block search with dropout on, so that every random stream is used."""
    config = TrainConfig(
        num_steps=12,
        log_every=2,
        evaluate_every=6,
        model=ModelConfig(
            num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32, mta=MTA, attention_dropout=0.1
        ),
        data=DataConfig(
            batch_size=4,
            block_search=BlockSearchConfig(
                block_size=3, sequence_length=21, num_train_samples=20, num_heldout_samples=10
            ),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        checkpoint=CheckpointConfig(every=4, keep=2),
    )
    return dataclasses.replace(config, **changes)


def text_config(**changes: Any) -> TrainConfig:
    """A language model on the reference manual."""
    config = toy_config(
        num_steps=4,
        evaluate_every=4,
        model=ModelConfig(num_layers=1, embed_dim=16, num_heads=2, mlp_dim=32, mta=MTA),
        data=DataConfig(
            source="text",
            batch_size=16,
            text=TextConfig(
                domains={"docs": DomainConfig(train="python:docs")},
                sequence_length=64,
                shuffle_rows=64,
            ),
        ),
        sample=SampleConfig(every=2, prompt="The ", num_tokens=8),
    )
    return dataclasses.replace(config, **changes)
