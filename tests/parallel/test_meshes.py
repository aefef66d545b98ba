import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.on_meshes import MESHES, MESHES_FINETUNED

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


@pytest.mark.parametrize(
    "kind",
    [
        "mta",
        *(
            pytest.param(kind, marks=pytest.mark.once)
            for kind in ("transformer", "talking_heads", "diff", "finetuned")
        ),
    ],
)
def test_every_mesh_trains_as_one_device(kind):
    differences = printed("tests.parallel.on_meshes", kind)
    assert set(differences) == set(MESHES_FINETUNED if kind == "finetuned" else MESHES)
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
