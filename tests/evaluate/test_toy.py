import dataclasses
import json
import re

import pytest

from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.toy import Row, ToyConfig, errors_by_column, evaluate_toy
from mta_jax.training.config import OptimizerConfig
from mta_jax.training.loop import train
from tests.training.tiny import text_config, toy_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of both kinds and two seeds, and their results."""
    folder = tmp_path_factory.mktemp("toy")
    results = {}
    for kind in ("transformer", "mta"):
        for seed in (0, 1):
            config = toy_config(seed=seed)
            config = dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, attention=kind),
            )
            name = f"{kind}-{seed}"
            results[name] = train(config, folder / name, name=kind)
    return folder, results


def test_errors_are_those_of_training(runs):
    folder, results = runs
    found = evaluate_toy(ToyConfig(checkpoint=str(folder / "*")))
    assert {row["model"]: row["error"] for row in found.rows} == {
        name: result.held_out["heldout"]["error"] for name, result in results.items()
    }
    assert all(row["wrong"] == row["error"] * row["samples"] for row in found.rows)
    assert found.tables[0].rows[0][0] == "transformer"
    assert "over 2 seeds" in found.tables[0].note


def test_dropout_in_the_evaluation_is_repeatable_and_felt(runs):
    folder, _ = runs
    name = str(folder / "transformer-0")

    def losses(**settings):
        return evaluate_toy(ToyConfig(checkpoint=name, **settings)).rows[0]

    plain = losses()
    dropped = [losses(dropout=0.9, seed=seed) for seed in (0, 0, 1)]
    assert dropped[0] == dropped[1]
    assert len({row["loss"] for row in [plain, *dropped]}) == 3


def row(**changes):
    values = {
        "model": "m",
        "kind": "mta",
        "block_size": 5,
        "answer": "all",
        "num_blocks": 4,
        "seed": 0,
        "step": 10,
        "samples": 100,
        "wrong": 1,
        "error": 0.01,
        "loss": 1.0,
    }
    return Row(**values | changes)


def test_columns_stand_in_the_papers_order():
    rows = [row(block_size=n, answer=a) for a in ("last", "first", "all") for n in (8, 3, 5)]
    rows += [row(kind="transformer"), row(seed=1, error=0.03)]
    errors = errors_by_column(rows)
    assert list(errors) == ["transformer", "mta"]
    columns = [f"N={n} {a}" for n in (5, 8, 3) for a in ("all", "first", "last")]
    assert list(errors["mta"]) == columns
    assert errors["mta"]["N=5 all"] == [0.01, 0.03]
    assert list(errors_by_column([row(), row(step=20)])) == ["mta, 10 steps", "mta, 20 steps"]


def test_the_command(runs, tmp_path, capsys):
    folder, _ = runs
    settings = ["--checkpoint", str(folder / "*"), "--output", str(tmp_path / "out")]
    assert main(["toy", *settings]) == 0
    printed = capsys.readouterr().out
    assert "Wrong answers, %" in printed
    assert "51.6" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "errors.png",
        "figures.json",
        "table.md",
    }
    assert len(json.loads((tmp_path / "out/figures.json").read_text())["rows"]) == 4


def test_runs_on_something_else_and_runs_twice_are_refused(runs, tmp_path, capsys):
    folder, _ = runs
    train(text_config(), tmp_path / "lm", name="lm")
    assert main(["toy", "--checkpoint", str(tmp_path / "lm")]) == 2
    assert "was trained on data.source text, not on block_search" in capsys.readouterr().err
    (tmp_path / "again").symlink_to(folder / "mta-0")
    both = f"[{folder / 'mta-0'}, {tmp_path / 'again'}]"
    assert main(["toy", "--checkpoint", both]) == 2
    assert "is of the kind, task, steps and seed 0 of" in capsys.readouterr().err
    config = toy_config(seed=2)
    train(dataclasses.replace(config, optimizer=OptimizerConfig()), tmp_path / "slow", name="slow")
    assert main(["toy", "--checkpoint", f"[{folder / 'mta-0'}, {tmp_path / 'slow'}]"]) == 2
    assert "slow/checkpoints/12: optimizer is another than that of" in capsys.readouterr().err
    longer = dataclasses.replace(config.data.block_search, sequence_length=29)
    data = dataclasses.replace(config.data, block_search=longer)
    train(dataclasses.replace(config, data=data), tmp_path / "long", name="long")
    assert main(["toy", "--checkpoint", f"[{folder / 'mta-0'}, {tmp_path / 'long'}]"]) == 2
    message = r"long\S*: has 6 blocks in a sample, and \S*mta-0\S* of the same column N=3 all"
    assert re.search(message, capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["toy", "--checkpoint", "x", "--dropout", "1"])
    assert "dropout 1.0: must be in (0, 1), or null" in capsys.readouterr().err
