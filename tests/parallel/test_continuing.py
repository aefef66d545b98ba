"""A run continues on another mesh."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from mta_jax.training.records import read_rows
from mta_jax.training.saved_weights import read_weights

ROOT = Path(__file__).parents[2]

CONFIG = {
    "num_steps": 6,
    "log_every": 1,
    "evaluate_every": 6,
    "compare": None,
    "model": {
        "num_layers": 1,
        "embed_dim": 32,
        "num_heads": 4,
        "mlp_dim": 64,
        "attention": "mta",
        "mta": {"pre_kq_kernel_size": [3, 5], "post_kq_kernel_size": None},
    },
    "data": {
        "source": "text",
        "batch_size": 8,
        "streams": 2,
        "text": {
            "domains": {"docs": {"train": "python:docs"}},
            "packing": "best_fit",
            "sequence_length": 32,
            "shuffle_rows": 16,
            "heldout_rows": 16,
        },
    },
    "optimizer": {"learning_rate": 1e-3, "epsilon": 1e-5, "ema_decay": 0.9},
    "checkpoint": {"every": 3},
}


def train(folder, num_devices, *arguments):
    environment = dict(os.environ)
    flags = environment.get("XLA_FLAGS", "")
    environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={num_devices}"
    config = folder.parent / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    done = subprocess.run(
        [sys.executable, "train.py", "--config", str(config), "--run_dir", str(folder), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.once
def test_a_run_of_eight_devices_continues_on_one_and_begins_others(tmp_path):
    run = tmp_path / "run"
    train(run, 8, "--mesh.fsdp", "2", "--mesh.tensor", "2", "--mesh.context", "2")
    want = read_weights(run, "checkpoint").params
    losses = [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]

    shutil.rmtree(run / "checkpoints" / "6")
    assert "continuing from step 3" in train(run, 1)
    got = read_weights(run, "checkpoint").params
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    again = [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]
    np.testing.assert_allclose(again, losses, rtol=1e-5)

    # Weights of one device begin a run of four.
    train(tmp_path / "next", 4, "--init_from", str(run), "--mesh.fsdp", "4")
