import dataclasses
import json

import numpy as np
import pytest

from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.perplexity import PerplexityConfig, evaluate_perplexity
from mta_jax.training.loop import train
from tests.training.tiny import text_config, toy_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs, and text to evaluate them on."""
    folder = tmp_path_factory.mktemp("runs")
    results = [train(text_config(seed=seed), folder / f"run-{seed}", name="lm") for seed in (0, 1)]
    lines = [json.dumps({"text": "sample text " * size}) for size in (1, 30, 4)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.txt").write_text("Other text, with ümlauts.")
    return folder, results


def evaluate(runs, *, of=("run-0",), **settings):
    folder, _ = runs
    return evaluate_perplexity(
        PerplexityConfig(checkpoint=[str(folder / name) for name in of], **settings)
    )


def test_the_papers_protocol_is_that_of_training(runs):
    _, results = runs
    (row,) = evaluate(runs, protocol="paper")
    expected = results[0].held_out["docs"]
    assert row.loss == pytest.approx(expected["loss"], rel=1e-6)
    assert row.perplexity == pytest.approx(np.exp(row.loss), rel=1e-6)
    assert row.bits_per_byte == pytest.approx(expected["bits_per_byte"], rel=1e-6)
    (fewer,) = evaluate(runs, protocol="paper", rows=3)
    assert fewer.tokens == 3 * 64


def test_strided_windows_count_every_token_whatever_the_batch(runs):
    (row,) = evaluate(runs)
    (other,) = evaluate(runs, batch_size=3)
    assert row.tokens == other.tokens
    assert row.loss == pytest.approx(other.loss, rel=1e-5)
    (whole,) = evaluate(runs, protocol="paper")
    assert (row.tokens, row.text_bytes) == (whole.tokens, whole.text_bytes)
    # More context makes another loss.
    (short,) = evaluate(runs, sequence_length=8, stride=8)
    assert short.tokens == row.tokens
    assert short.loss != row.loss


def test_text_of_ones_own_by_domain_and_their_mean(runs):
    folder, _ = runs
    texts = {"a": str(folder / "a.jsonl"), "b": [str(folder / "b.txt")]}
    rows = evaluate(runs, of=("run-0", "run-1"), texts=texts)
    assert [row.domain for row in rows] == ["a", "b", "mean"] * 2
    assert rows[1].text_bytes == len("Other text, with ümlauts.".encode())
    # The end of each document is predicted too.
    assert rows[0].tokens == rows[0].text_bytes + 3
    assert rows[2].perplexity == pytest.approx((rows[0].perplexity + rows[1].perplexity) / 2)
    assert rows[0].loss != rows[3].loss


def test_the_command_prints_a_table_and_writes_figures(runs, capsys, tmp_path):
    folder, _ = runs
    flags = ["--checkpoint", str(folder / "run-0"), "--output", str(tmp_path / "figures")]
    assert main(["perplexity", *flags, "--stride", "32"]) == 0
    output = capsys.readouterr().out
    assert "run-0, step 4" in output
    figures = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert figures["task"] == "perplexity"
    assert figures["config"]["stride"] == 32
    assert figures["rows"] == [
        dataclasses.asdict(row)
        for row in evaluate(runs, stride=32, output=figures["config"]["output"])
    ]
    printed = f"{figures['rows'][0]['perplexity']:.3f}"
    assert printed in output
    assert printed in (tmp_path / "figures" / "table.md").read_text()


def test_globs_name_runs_and_rows_say_which(runs):
    rows = evaluate(runs, of=("run-*",))
    assert [row.name for row in rows] == ["run-0", "run-1"]
    assert rows[0].loss != rows[1].loss


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["perplexity", "--checkpoint", "nowhere"], 1, "checkpoint nowhere: no such folder"),
        (["perplexity", "--checkpoint", "RUN", "--stride", "65"], 2, "at most the sequence_length"),
        (
            ["perplexity", "--checkpoint", "RUN", "--sequence_length", "128"],
            2,
            "is made for 64 tokens; ask for less, or give --allow_extrapolation",
        ),
        (
            ["perplexity", "--checkpoint", "RUN", "--texts", '{"a": "x.txt"}'],
            2,
            "data.text.domains.a.heldout x.txt: no such file",
        ),
        (
            ["perplexity", "--checkpoint", "RUN", "--output", "/dev/null"],
            2,
            "output /dev/null: exist",
        ),
    ],
)
def test_mistakes_are_one_line(runs, capsys, arguments, code, message):
    arguments = [str(runs[0] / "run-0") if part == "RUN" else part for part in arguments]
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": []}, "name at least one"),
        ({"checkpoint": "a", "rows": 0}, "rows 0: must be at least 1"),
        ({"checkpoint": "a", "rows": 1}, "the strided protocol takes all"),
        ({"checkpoint": "a", "stride": 1, "protocol": "paper"}, "the paper's protocol has none"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PerplexityConfig(**settings)


def test_a_toy_run_has_no_text(tmp_path, capsys):
    train(toy_config(num_steps=2), tmp_path / "toy", name="toy")
    assert main(["perplexity", "--checkpoint", str(tmp_path / "toy")]) == 2
    assert "data.source block_search, not on text" in capsys.readouterr().err


def test_a_tokenizer_that_changed_is_refused(tmp_path, capsys):
    from mta_jax.data.tokenizers import train_bpe

    path = tmp_path / "tokenizer.json"
    train_bpe(["some text to learn pairs from"], 270, path)
    config = text_config()
    text = dataclasses.replace(config.data.text, tokenizer=str(path))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, text=text))
    train(config, tmp_path / "run", name="lm")
    assert main(["perplexity", "--checkpoint", str(tmp_path / "run")]) == 0
    train_bpe(["another text, and other pairs"], 270, path)
    capsys.readouterr()
    assert main(["perplexity", "--checkpoint", str(tmp_path / "run")]) == 2
    assert "its tokenizer was another one than data.text.tokenizer" in capsys.readouterr().err
