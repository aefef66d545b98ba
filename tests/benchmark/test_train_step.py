import json

import jax
import pytest

from mta_jax.benchmark import __main__ as benchmark
from mta_jax.benchmark import torch_model, train_step
from mta_jax.training.config import TrainConfig
from mta_jax.training.state import make_program

TINY = ["--length", "16", "--num_layers", "2", "--embed_dim", "16", "--num_heads", "2"]


@pytest.mark.once
def test_every_kind_and_implementation_is_measured(tmp_path, capsys):
    path = tmp_path / "figures.json"
    kinds = ["--kinds", "[transformer, mta]", "--repeats", "1", "--json", str(path)]
    assert benchmark.main(["train_step", *TINY, *kinds]) == 0
    content = json.loads(path.read_text())
    assert content["config"]["embed_dim"] == 16
    rows = content["measurements"]
    assert [(row["kind"], row["implementation"]) for row in rows] == [
        (kind, name) for kind in ("transformer", "mta") for name in ("automatic", "xla")
    ]
    assert all(row["step_ms"] > 0 and row["temp_bytes"] > 0 for row in rows)
    assert "to transformer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "[]"], "kinds []: name at least one"),
        (["--implementations", "[]"], "implementations []: name at least one"),
        (["--length", "0"], "length 0: must be at least 1"),
        (["--kinds", "[diff]", "--torch", "true"], "kinds diff: there is no PyTorch model"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(["train_step", *arguments])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", ["transformer", "talking_heads", "mta"])
def test_torch_trains_as_many_parameters(kind):
    # Half a gigabyte that only this comparison needs: the extra `bench`.
    pytest.importorskip("torch")
    config = train_step.StepBenchmarkConfig(length=8, embed_dim=16, num_heads=2)
    model = config.model(kind, None)
    theirs = torch_model.train_step(model, kind, train_step._tokens(config))()
    state = jax.eval_shape(make_program(TrainConfig(model=model)).initial_state)
    assert theirs == sum(x.size for x in jax.tree.leaves(state["params"]))
