"""`train.py` as a user runs it: a process of its own."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TINY = {
    "num_steps": 60,
    "log_every": 2,
    "evaluate_every": 20,
    "checkpoint.every": 4,
    "model.num_layers": 1,
    "model.embed_dim": 16,
    "model.mlp_dim": 32,
    "model.attention_dropout": 0.1,
    "model.mta.pre_kq_kernel_size": "[2, 3]",
    "data.batch_size": 4,
    "data.block_search.block_size": 3,
    "data.block_search.sequence_length": 21,
    "data.block_search.num_heldout_samples": 10,
    "optimizer.warmup_steps": 2,
}


def command(run_dir, **changes):
    settings = TINY | {"run_dir": run_dir, "compare": "null"} | changes
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-W", "error::UserWarning", str(ROOT / "train.py"), *flags]


def finish(run_dir, **changes):
    return subprocess.run(
        command(run_dir, **changes), capture_output=True, text=True, timeout=300, check=False
    )


def kill_after(run_dir, step, **changes):
    """Starts the run and kills it, with no chance to clean up, once a step is logged."""
    process = subprocess.Popen(
        command(run_dir, **changes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics = run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def mixture(tmp_path):
    """Settings of a weighted mixture of what is indexed and a stream, packed, accumulated."""
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=rng.randrange(5, 200))) for _ in range(60)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.upper().replace(b"TEXT", b"text")))
    return {
        "data.source": "text",
        "data.text.domains": json.dumps(
            {
                "a": {"train": str(tmp_path / "a.jsonl"), "weight": 0.7},
                "b": {"train": str(tmp_path / "b.jsonl.gz"), "weight": 0.3},
            }
        ),
        "data.text.packing": "best_fit",
        "data.text.sequence_length": 32,
        "data.text.shuffle_rows": 16,
        "data.text.shuffle_documents": 7,
        "data.text.heldout_rows": 8,
        "accumulate": 2,
        "optimizer.ema_decay": 0.9,
    }


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("block_search", marks=pytest.mark.slow),
        pytest.param("mixture", marks=pytest.mark.once),
    ],
)
def test_a_run_killed_twice_at_random_writes_the_same_bytes(tmp_path, source, mixture):
    changes = mixture if source == "mixture" else {}
    rng = random.Random()
    steps = sorted(rng.sample(range(2, 40, 2), 2))
    uninterrupted = finish(tmp_path / "whole", **changes)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    for step in steps:
        kill_after(tmp_path / "killed", step, **changes)
    resumed = finish(tmp_path / "killed", **changes)
    assert resumed.returncode == 0, resumed.stderr
    metrics = (tmp_path / "killed" / "metrics.jsonl").read_bytes()
    assert metrics == (tmp_path / "whole" / "metrics.jsonl").read_bytes(), f"killed at {steps}"


def test_a_comparison_ends_with_its_table_and_files(tmp_path):
    result = finish(tmp_path / "run", compare="[mta, transformer]", num_steps=4, evaluate_every=4)
    assert result.returncode == 0, result.stderr
    header, *rows = [line for line in result.stdout.splitlines() if line.startswith(("┃", "│"))]
    for name in ("kind", "parameters", "steps", "seconds", "whole-answer error"):
        assert name in header
    assert [row.split()[1] for row in rows] == ["mta", "transformer"]
    for file in (
        "config.yaml",
        "results.json",
        "mta/metrics.jsonl",
        "mta/config.yaml",
        "mta/tensorboard",
        "transformer/checkpoints/4",
        "pictures/curves.png",
        "pictures/attention.png",
        "pictures/kernels_mta.png",
    ):
        assert (tmp_path / "run" / file).exists(), file
    # Not a terminal: whole lines, no control codes.
    assert "\x1b" not in result.stdout
    assert "4/4" in result.stdout

    again = finish(tmp_path / "run", compare="[mta, transformer]", num_steps=6, evaluate_every=4)
    assert again.returncode == 2
    assert "holds another run: num_steps is 4 there and 6 here" in again.stderr
    assert again.stderr.count("\n") == 1


def test_a_dry_run_counts_and_allocates_nothing(tmp_path):
    preset = ROOT / "mta_jax" / "models" / "presets" / "880m.yaml"
    result = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "--model",
            str(preset),
            "--compare=[mta, diff]",
            "--dry_run",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for text in ("876,583,320", "876,567,552", "embedding", "key-query kernels", "GiB"):
        assert text in result.stdout
    assert "embed_dim: 1536" in result.stdout
    assert "Data: all that is named is there" in result.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.num_layer", "2"], "unknown setting 'model.num_layer'"),
        (
            ["--model.vocab_size", "8", "--compare", "null"],
            "vocab_size 8: the tokenizer has 32",
        ),
        (["--model.num_heads", "1", "--compare", "[mta, diff]"], "num_heads 1"),
    ],
)
def test_a_bad_setting_exits_with_2_before_anything_is_made(tmp_path, arguments, message):
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_unreadable_checkpoints_exit_with_1_and_a_line(tmp_path):
    assert finish(tmp_path / "run", num_steps=4, evaluate_every=4).returncode == 0
    for manifest in (tmp_path / "run" / "checkpoints").rglob("manifest.ocdbt"):
        manifest.write_bytes(b"rubbish")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    result = finish(tmp_path / "run", num_steps=4, evaluate_every=4)
    assert result.returncode == 1
    assert "none of the checkpoints [4]" in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
