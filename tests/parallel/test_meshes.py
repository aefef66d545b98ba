import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel.on_meshes import MESHES, MESHES_FINETUNED

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["transformer", "mta", "talking_heads", "diff", "finetuned"])
def test_every_mesh_trains_as_one_device(kind):
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.on_meshes", kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert set(differences) == set(MESHES_FINETUNED if kind == "finetuned" else MESHES)
    for mesh, fields in differences.items():
        for field, difference in fields.items():
            assert difference < 1e-5, (mesh, field)
    # XLA says when it cannot split an array and gives all of it to every device.
    assert "rematerialization" not in done.stderr
