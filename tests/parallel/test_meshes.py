import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.on_meshes import MESHES

ROOT = Path(__file__).parents[2]


def printed(*module: str) -> Any:
    """What a module prints as JSON, in a process with devices of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # XLA says when it cannot split an array and gives all of it to every device.
    assert "rematerialization" not in done.stderr
    return json.loads(done.stdout)


KINDS = ("transformer", "talking_heads", "diff", "finetuned")
EVERY_AXIS = ("2 fsdp x 2 tensor x 2 context",)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param("mta", MESHES, id="mta"),
        *(pytest.param(x, EVERY_AXIS, id=x, marks=pytest.mark.once) for x in KINDS),
        *(pytest.param(x, MESHES, id=f"{x}-all", marks=pytest.mark.slow) for x in KINDS),
    ],
)
def test_every_mesh_trains_as_one_device(kind, names):
    differences = printed("tests.parallel.on_meshes", kind, *names)
    assert set(differences) == set(names)
    for mesh, fields in differences.items():
        for field, difference in fields.items():
            assert difference < 1e-5, (mesh, field)


@pytest.mark.parametrize(
    ("steps", "kernel"),
    [
        pytest.param("heads", "pre_head", marks=pytest.mark.once),
        ("all", "post_kq"),
        pytest.param("logits", "pre_kq", marks=pytest.mark.slow),
    ],
)
def test_fused_kernels_serve_parts_of_the_rows_as_one_device(steps, kernel):
    found = printed("tests.parallel.fused_on_a_mesh", steps)
    assert {"out", "x", f"{kernel}.kernel.value"} < set(found["differences"])
    for field, difference in found["differences"].items():
        assert difference < 1e-5, field
    assert found["names_on_tpus"] == ["pallas_tpu"]
