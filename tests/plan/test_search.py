import dataclasses

from mta_jax.data import DataConfig, TextConfig
from mta_jax.models import ModelConfig
from mta_jax.plan.search import activation_bytes, candidates, changes, easier
from mta_jax.training.config import TrainConfig
from mta_jax.training.mesh import mesh_sizes

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=100, num_layers=2, embed_dim=64, num_heads=8, mlp_dim=128),
    data=DataConfig(source="text", batch_size=32, text=TextConfig(sequence_length=64)),
)


def test_easier_ways_begin_with_the_nearest():
    names = [changes(CONFIG, other) for other in easier(CONFIG, 8)]
    assert names[:2] == ["--model.remat full", "--accumulate 2 --model.remat full"]
    assert names[-1].startswith("--mesh.context 8")


def test_every_easier_way_can_be_run():
    for other in easier(CONFIG, 8):
        mesh_sizes(other, 8)


def test_candidates_are_different_and_begin_with_the_simplest():
    names = [changes(CONFIG, other) for other in candidates(CONFIG, 8)]
    assert names[0] == "as it is"
    assert len(names) == len(set(names)) > 20


def test_less_is_kept_with_more_parts_and_rematerialisation():
    full = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat="full"))
    parts = dataclasses.replace(full, accumulate=4)
    sizes = [activation_bytes(config, 8) for config in (CONFIG, full, parts)]
    assert sizes == sorted(sizes, reverse=True)
    # 4 rows of 64 tokens on a device, 2 layers, one float32 vector of 64 each.
    assert sizes[1] == 4 * 64 * 2 * 64 * 4
