"""Trains a tiny model on one device and on meshes of eight; a process of its own.

python -m tests.parallel.on_meshes KIND MESH [MESH ...] prints, as JSON, how far losses and
parameters on each mesh are from those of one device. KIND is a kind of attention or "finetuned":
multi-token attention of which a part is trained, and low-rank terms.
"""

import dataclasses
import json
import os
import sys

if __name__ == "__main__":
    # Before jax is imported, and not where only `MESHES` is wanted.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import jax
import numpy as np

from mta_jax.data import DataConfig, DomainConfig, TextConfig, load_data
from mta_jax.models import ModelConfig, MTAConfig
from mta_jax.parallel.feed import on_mesh
from mta_jax.parallel.mesh import MeshConfig, on
from mta_jax.parallel.rules import constrain_state
from mta_jax.training.config import LossConfig, OptimizerConfig, TrainConfig
from mta_jax.training.finetune_config import FinetuneConfig, LoraConfig
from mta_jax.training.mesh import mesh_of
from mta_jax.training.partition import without_low_rank
from mta_jax.training.state import evaluated, make_program
from mta_jax.training.step import make_eval_step, make_train_step

MESHES = {
    "8 data": MeshConfig(data=8, fsdp=1),
    "8 fsdp": MeshConfig(fsdp=8),
    "4 fsdp x 2 tensor": MeshConfig(fsdp=4, tensor=2),
    "2 fsdp x 2 tensor x 2 context": MeshConfig(fsdp=2, tensor=2, context=2),
    "8 context": MeshConfig(fsdp=1, context=8),
}

FINETUNE = FinetuneConfig(train=["mixing", "norms"], lora=LoraConfig(rank=4))


def config_of(kind: str) -> TrainConfig:
    """Packed documents, two layers, the paper's head mixing over all heads."""
    return TrainConfig(
        num_steps=5,
        accumulate=2,
        model=ModelConfig(
            num_layers=2,
            embed_dim=32,
            num_heads=4,
            mlp_dim=64,
            attention="mta" if kind == "finetuned" else kind,
            mta=MTAConfig(pre_kq_kernel_size=(4, 5), post_kq_kernel_size=(3, 3), kq_layers=[1]),
            scan_layers=kind == "talking_heads",
        ),
        data=DataConfig(
            source="text",
            batch_size=16,
            text=TextConfig(
                domains={"docs": DomainConfig(train="python:docs")},
                packing="best_fit",
                sequence_length=32,
                shuffle_rows=64,
            ),
        ),
        # A larger epsilon keeps gradients of nearly nothing from deciding a step.
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant", epsilon=1e-5),
        loss=LossConfig(z_loss=1e-4, tokens_at_once=24),
        finetune=FINETUNE if kind == "finetuned" else FinetuneConfig(),
    )


def train(config: TrainConfig, devices: list[jax.Device]) -> dict[str, np.ndarray]:
    """Losses, scores and parameters of a few steps."""
    program = make_program(config)
    config = program.config
    mesh = mesh_of(config, devices)
    data = load_data(config.data, seed=0, held_out_rows=config.held_out_rows)
    batches = iter(data.train)
    with on(mesh):
        state = jax.jit(lambda: constrain_state(program.initial_state()))()
        train_step, eval_step = make_train_step(program), make_eval_step(program)
        losses = []
        for _ in range(config.num_steps):
            batch = next(batches)
            state, metrics = train_step(state, on_mesh(batch, mesh))
            losses.append(metrics["loss"])
        params = evaluated(state)
        scores = eval_step(params, on_mesh({n: x[:8] for n, x in batch.items()}, mesh))
        # Terms that started as zero are as exact as the kernels that they are part of.
        params = without_low_rank(params, config.finetune)
    batches.close()
    found = {"loss": np.asarray(losses), "nll": np.asarray(scores["nll"])}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        found[jax.tree_util.keystr(path, simple=True, separator=".")] = np.asarray(leaf)
    return found


def main(kind: str, names: list[str]) -> None:
    """Prints the largest relative difference for each mesh."""
    alone = train(dataclasses.replace(config_of(kind), mesh=MeshConfig()), jax.devices()[:1])
    report = {}
    for name in names:
        split = train(dataclasses.replace(config_of(kind), mesh=MESHES[name]), jax.devices())
        report[name] = {
            field: float(np.abs(split[field] - x).max() / np.abs(x).max())
            for field, x in alone.items()
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
