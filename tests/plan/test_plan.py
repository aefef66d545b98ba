"""The real train step through the real compiler, for slices that are not there."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mta_jax.hardware.gpus import H100
from mta_jax.hardware.topologies import TOPOLOGIES
from mta_jax.models.flops import flops_per_token
from mta_jax.plan.compilation import Plan
from mta_jax.plan.program_text import Collective
from mta_jax.plan.roofline import roofline
from mta_jax.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
KINDS = ["transformer", "mta", "talking_heads", "diff"]


def needs_libtpu(test):
    """There is nothing to compile with otherwise."""
    missing = importlib.util.find_spec("libtpu") is None
    return pytest.mark.aot(pytest.mark.skipif(missing, reason="needs the tpu extra")(test))


def plan(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mta_jax.plan", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )


def figures_of(file, *arguments):
    done = plan(*arguments, "--json", str(file))
    assert done.returncode == 0, done.stderr + done.stdout
    content = json.loads(file.read_text())
    return content["plans"]["as it is"]


def assert_sound(figures, num_params, length):
    assert figures["fits"]
    # Split evenly between all that share a copy, but for what is small.
    parts = figures["mesh"]["fsdp"] * figures["mesh"]["tensor"]
    assert figures["params_bytes"] < 1.01 * 4 * num_params / parts + 2**20
    assert figures["optimizer_bytes"] < 1.01 * 8 * num_params / parts + 2**20
    # Of a map of logits both sides are as long as a row, or a part of it.
    sides = {length // n for n in range(1, 17) if length % n == 0}
    for collective in figures["collectives"].values():
        for _, shape in collective["largest"]:
            assert sum(size in sides and size >= length // 16 for size in shape) < 2, shape


@needs_libtpu
@pytest.mark.parametrize(
    "heads",
    [
        # Kernels of a quarter of the heads compile in a quarter of the time.
        ["--model.num_heads", "4", "--model.head_dim", "96"],
        pytest.param([], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param([], marks=pytest.mark.slow),
        ["--mesh.tensor", "2", "--mesh.context", "2"],
    ],
)
def test_mta_of_the_papers_width_compiles(tmp_path, mesh, heads):
    figures = figures_of(
        tmp_path / "plan.json",
        *("--config", "configs/lm_880m_mta.yaml", "--topology", "v5e:2x2"),
        *("--model.num_layers", "1", "--model.mta.kq_layers", "[0]", *heads),
        *("--data.text.sequence_length", "640", "--data.batch_tokens", "5120", *mesh),
    )
    assert_sound(figures, 226_000_000, 640)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("size", ["880m", "1b"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("topology", "mesh"),
    [
        ("v5p:4x4x4", []),
        ("v5e:16x16", ["--mesh.tensor", "2"]),
        ("v6e:16x16", ["--mesh.tensor", "2"]),
    ],
)
def test_the_papers_models_compile_for_large_slices(tmp_path, size, kind, topology, mesh):
    figures = figures_of(
        tmp_path / "plan.json",
        *("--config", f"configs/lm_{size}_{kind}.yaml", "--topology", topology, *mesh),
    )
    assert_sound(figures, {"880m": 877_000_000, "1b": 1_496_000_000}[size], 2048)


@needs_libtpu
def test_two_slices_are_one_mesh():
    done = plan(
        *("--config", "configs/lm_tiny_mta.yaml", "--topology", "v5e:2x2", "--num_slices", "2"),
        *("--model.attention", "transformer", "--model.num_layers", "1"),
        *("--mesh.data", "2", "--mesh.fsdp", "4"),
    )
    assert done.returncode == 0, done.stderr
    assert "8 chips, 2 slices of v5e:2x2" in done.stdout
    assert "2 data x 4 fsdp" in done.stdout


@needs_libtpu
def test_a_run_that_does_not_fit_ends_with_1_and_says_what_does(tmp_path):
    done = plan(
        *("--config", "configs/lm_tiny_mta.yaml", "--topology", "v5e:2x2"),
        *("--model.attention", "transformer", "--model.num_layers", "1"),
        *("--data.batch_size", "131072"),
    )
    assert done.returncode == 1, done.stderr
    assert "It does not fit. The nearest that does: --accumulate" in done.stdout


@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v9:2x2"], "must be one of v5e, v5p, v6e, h100 and a shape"),
        (["--topology", "v5p:3x3x3"], "libtpu refuses it"),
        (["--mesh.fsdp", "3"], "is 3 devices, and there are 4: mesh.fsdp 4 or null would fit"),
        (["--mesh.tensor", "3"], "must divide the 4 devices there are, and 3 does not; 1, 2, 4"),
        (["--data.batch_tokens", "6144"], "must divide the rows of a batch"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_fit(arguments, message):
    done = plan("--config", "configs/lm_880m_mta.yaml", "--topology", "v5e:2x2", *arguments)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mta_jax.plan: error: ")
    assert message in last


def test_what_the_compiler_refuses_does_not_fit_whatever_its_digits_say():
    full = TOPOLOGIES["v5e"].memory
    refused = Plan(
        config=TrainConfig(),
        chip=TOPOLOGIES["v5e"],
        mesh={"data": 1, "fsdp": 4, "context": 1, "tensor": 1},
        params_bytes=0,
        optimizer_bytes=0,
        temp_bytes=None,
        code_bytes=None,
        peak_bytes=full,
        memory_bytes=full,
        collectives=[],
    )
    assert not refused.fits


def bounds_of(chip, remat="none"):
    """A plan of the default run, and its bounds."""
    config = TrainConfig()
    mesh = {"data": 1, "fsdp": 4, "context": 1, "tensor": 1}
    sent = [Collective("all-gather", (("bf16", (1000, 1000)),), runs=10)]
    found = Plan(
        config=config.__class__(model=config.model.__class__(vocab_size=100, remat=remat)),
        chip=chip,
        mesh=mesh,
        params_bytes=4_000,
        optimizer_bytes=8_000,
        temp_bytes=1,
        code_bytes=1,
        peak_bytes=100_000,
        memory_bytes=chip.memory,
        collectives=sent,
    )
    return found, roofline(found)


def test_bounds_are_those_of_the_arithmetic():
    found, bounds = bounds_of(TOPOLOGIES["v5p"])
    assert math.isclose(bounds.arithmetic, found.flops / 4 / 459e12)
    assert math.isclose(bounds.network, 10 * 2e6 / 600e9)
    # 2 x 12,000 of state, and three passes over 8,000 bytes of bfloat16 weights.
    assert math.isclose(bounds.memory, (24_000 + 24_000) / 2765e9)
    assert bounds.seconds == max(bounds.arithmetic, bounds.memory, bounds.network)


@pytest.mark.parametrize(
    ("remat", "weights", "passes"),
    [("none", 3, 3), ("dots", 3, 3), ("attention", 4, 3), ("full", 4, 4)],
)
def test_maps_of_logits_go_through_the_memory_of_a_gpu(remat, weights, passes):
    found, bounds = bounds_of(H100, remat)
    # Of each of 2 layers, 2 heads and (T + 1) / 2 keys, 5 steps that read and write 4 bytes.
    tokens, length = found.tokens, found.config.data.row_length
    maps = passes * tokens * 2 * 5 * 2 * 4 * 2 * (length + 1) // 2
    memory = 24_000 + weights * 8_000 + maps / 4
    assert math.isclose(bounds.memory, memory / H100.bandwidth, rel_tol=1e-6)


def test_what_is_computed_again_is_arithmetic_too():
    flops = flops_per_token(bounds_of(H100)[0].config.model, TrainConfig().data.row_length)
    remats = ("none", "dots", "attention", "full")
    seconds = {remat: bounds_of(H100, remat)[1].arithmetic for remat in remats}
    unit = seconds["none"] / flops.training
    assert seconds["dots"] == seconds["none"]
    layers = flops.forward - flops.output_layer
    assert math.isclose(seconds["full"], unit * (flops.training + layers))
    again = flops.projections + flops.feed_forward
    assert math.isclose(seconds["attention"], unit * (flops.training + again))
