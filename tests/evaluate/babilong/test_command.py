import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mta_jax.data.haystack import load_haystack
from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.babilong.generator import GeneratedStories
from mta_jax.evaluate.babilong.samples import sample_of_row
from mta_jax.generate.language_model import load_model
from mta_jax.training.config import OptimizerConfig, SampleConfig
from mta_jax.training.loop import train
from tests.training.tiny import text_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = text_config(
        num_steps=1,
        log_every=1,
        evaluate_every=1,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
        sample=SampleConfig(every=None),
    )
    train(config, folder, name="lm")
    return str(folder)


def test_a_trained_model_is_asked(run, haystack_file, tmp_path, capsys):
    output = tmp_path / "out"
    flags = ["--checkpoint", run, "--samples", "2", "--haystack", haystack_file]
    flags += ["--lengths", "[0, 1024]", "--batch_size", "5", "--output", str(output)]
    assert main(["babilong", *flags, "--allow_extrapolation"]) == 0
    shown = capsys.readouterr().out
    assert "bAbI-style (generated), in 1,024 tokens, 2 questions per task" in shown
    assert "tiny was made for 64 tokens" in " ".join(shown.split())
    assert sorted(path.name for path in output.iterdir()) == [
        "accuracy_generated.png",
        "accuracy_likeliest.png",
        "figures.json",
        "samples.jsonl",
        "table.md",
    ]
    figures = json.loads((output / "figures.json").read_text())
    assert figures["config"]["lengths"] == [0, 1024]
    assert len(figures["rows"]) == 2 * 6
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * 5 * 2
    assert {row["tokens"] for row in samples if row["length"]} <= {1023, 1024}
    for row in samples:
        assert len(row["log_probs"]) == (7 if row["task"] == "QA5" else 6)
        assert row["likeliest"] == max(row["log_probs"], key=row["log_probs"].get)
        assert all(log_prob < 0 for log_prob in row["log_probs"].values())


def test_the_figures_are_those_of_the_models_own_log_probabilities(run, haystack_file, tmp_path):
    output = tmp_path / "out"
    flags = ["--checkpoint", run, "--output", str(output), "--haystack", haystack_file]
    flags += ["--tasks", "[1]", "--lengths", "[512]", "--samples", "1", "--shots", "0"]
    assert main(["babilong", *flags, "--allow_extrapolation"]) == 0
    (row,) = map(json.loads, (output / "samples.jsonl").read_text().splitlines())
    model = load_model(run)
    sample = sample_of_row(
        row,
        stories=GeneratedStories(),
        haystack=load_haystack([haystack_file], setting="haystack"),
        tokenizer=model.tokenizer,
    )
    prompt = [model.tokenizer.bos_id, *model.tokenizer.encode(sample.prompt)]
    network = nnx.merge(model.decoder.graphdef, model.decoder.params)
    for label, log_prob in row["log_probs"].items():
        tokens = jnp.array([*prompt, *model.tokenizer.encode(f" {label}")])
        log_probs = jax.nn.log_softmax(network(tokens[None])[0])
        of_label = [log_probs[at - 1, tokens[at]] for at in range(len(prompt), len(tokens))]
        assert sum(map(float, of_label)) == pytest.approx(log_prob, rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "tiny/checkpoints/1 is made for 64 tokens; ask for less, or give --allow_extrap"),
        (["--tasks", "[1, 7]"], 2, "tasks 7: there are 1, 2, 3, 4, 5"),
        (["--babi", "nowhere"], 2, "babi nowhere: no such folder. bAbI v1.2 (en-10k) is"),
        (
            ["--haystack", "TINY", "--allow_extrapolation"],
            2,
            "tokens in sentences of at least 10; ",
        ),
        (["--haystack", "nowhere", "--allow_extrapolation"], 2, "haystack nowhere"),
    ],
)
def test_mistakes_are_one_line(run, haystack_file, tmp_path, capsys, flags, code, message):
    (tmp_path / "tiny.txt").write_text("A text of one sentence.")
    flags = [str(tmp_path / "tiny.txt") if flag == "TINY" else flag for flag in flags]
    given = ["--checkpoint", run, "--samples", "1", "--lengths", "[1024]"]
    if "--haystack" not in flags:
        given += ["--haystack", haystack_file]
    try:
        found = main(["babilong", *given, *flags])
    except SystemExit as stop:
        found = stop.code
    assert found == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
