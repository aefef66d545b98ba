"""The language-model configs are the paper's settings (appendix E, and the authors' files)."""

from pathlib import Path

import pytest

from mta_jax.command_line import parse
from mta_jax.models import model_preset
from mta_jax.training.config import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS = ("transformer", "mta", "talking_heads", "diff")

# Tokens of a step, steps and warm-up.
SCHEDULES = {
    "300m": (262_144, 400_000, 375),
    "550m": (262_144, 400_000, 375),
    "880m": (262_144, 400_000, 375),
    "1b": (524_288, 200_000, 187),
}
WEIGHTS = {
    "commoncrawl": 0.726,
    "c4": 0.081,
    "github": 0.049,
    "book": 0.021,
    "arxiv": 0.023,
    "wikipedia": 0.05,
    "stackexchange": 0.05,
}

every_model = pytest.mark.parametrize(
    ("size", "kind"), [(size, kind) for size in SCHEDULES for kind in KINDS]
)


def read(*names, **changes):
    files = [part for name in names for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    flags = [part for name, value in changes.items() for part in (f"--{name}", value)]
    return parse(TrainConfig, [*files, *flags], prog="train.py", description="")[0]


@every_model
def test_models_are_the_presets(size, kind):
    config = read(f"lm_{size}_{kind}").model
    preset = model_preset(size, kind)
    names = ["vocab_size", "num_layers", "embed_dim", "num_heads", "kv_heads", "head_size"]
    names += ["mlp_size", "attention", "rope_theta", "rope_layout", "norm_epsilon"]
    names += ["tie_embeddings", "attention_dropout", "dtype"]
    for name in names:
        assert getattr(config, name) == getattr(preset, name), name
    if kind == "mta":
        assert config.mta == preset.mta


@every_model
def test_training_is_the_papers(size, kind):
    config = read(f"lm_{size}_{kind}")
    tokens, steps, warmup = SCHEDULES[size]
    assert (config.data.batch_tokens, config.num_steps) == (tokens, steps)
    assert tokens * steps == pytest.approx(104.9e9, rel=1e-3)
    assert config.accumulate == 1
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.schedule) == (1.5e-4, "linear")
    assert (optimizer.warmup_steps, optimizer.min_ratio) == (warmup, 0.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.98, 1e-8)
    assert (optimizer.weight_decay, optimizer.decay_all, optimizer.clip_norm) == (0.05, True, 1.0)
    text = config.data.text
    assert (text.sequence_length, text.packing, text.mixing) == (2048, "concat", "documents")
    assert {name: domain.weight for name, domain in text.domains.items()} == WEIGHTS
    assert config.seed == (42 if (size, kind) == ("880m", "mta") else 777)


def test_long_context_finetuning_is_the_papers():
    config = read(
        "lm_880m_mta",
        "lm_long_context_4k",
        init_from="runs/lm_880m_mta",
        run_dir="runs/lm_880m_mta_4k",
    )
    assert config.data.text.sequence_length == 4096
    assert config.data.rows == 64
    assert config.num_steps * 262_144 == pytest.approx(10.5e9, rel=1e-2)
    assert config.model.rope_theta == 500_000
    assert (config.optimizer.weight_decay, config.optimizer.warmup_steps) == (0.0, 50)
    assert config.optimizer.learning_rate == 1.5e-4
    assert config.model.num_layers == 24
    assert len(config.data.text.domains) == 7
