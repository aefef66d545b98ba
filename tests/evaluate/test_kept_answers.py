import json

import pytest

from mta_jax.errors import UserError
from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.kept_answers import KeptAnswers, answers_file
from mta_jax.evaluate.text_model import CheckpointModel
from mta_jax.training.loop import train
from tests.training.tiny import text_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "lm"
    train(text_config(), folder, name="lm")
    return folder


def never():
    raise AssertionError("was asked again")


def test_what_is_kept_is_not_asked_again(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    answer = [{"log_prob": -0.1 - 1e-9, "is_greedy": True}]
    assert KeptAnswers(path).once(["score", 1], lambda: answer) == answer
    assert KeptAnswers(path).once(["score", 1], never) == answer
    assert KeptAnswers(path).once(["score", 2], lambda: "other") == "other"
    assert KeptAnswers(path, {"model": 2}).once(["score", 1], lambda: "its own") == "its own"


def test_without_a_file_nothing_is_kept():
    answers = KeptAnswers()
    assert [answers.once("same", lambda n=n: n) for n in range(2)] == [0, 1]


@pytest.mark.parametrize("rest", [b'{"question": "cut', b"\xff\n", b'{"answer": 1}\n', b"[]\n"])
def test_a_line_that_was_cut_short_is_asked_again_and_costs_no_other(tmp_path, rest):
    path = tmp_path / "answers.jsonl"
    KeptAnswers(path).once("first", lambda: 1)
    path.write_bytes(path.read_bytes() + rest)
    KeptAnswers(path).once("second", lambda: 2)
    kept = KeptAnswers(path)
    assert (kept.once("first", never), kept.once("second", never)) == (1, 2)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    answers = KeptAnswers(tmp_path / "answers.jsonl")
    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(UserError, match=r"cannot be kept there \(No space left on device\)"):
        answers.once("first", lambda: 1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("needle", ["--lengths", "[200]", "--needles", "[1, 2]", "--depths", "[0, 100]"]),
        ("babilong", ["--lengths", "[0]", "--tasks", "[1, 2]", "--max_new_tokens", "3"]),
    ],
)
def test_an_evaluation_that_was_stopped_goes_on(task, settings, run, tmp_path, monkeypatch, capsys):
    arguments = [task, "--checkpoint", str(run), "--samples", "3", *settings]
    arguments += ["--batch_size", "2", "--allow_extrapolation"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*arguments, "--output", str(whole)]) == 0

    asked = []
    ask = CheckpointModel._score

    def score(self, rows):
        asked.append(rows)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(self, rows)

    monkeypatch.setattr(CheckpointModel, "_score", score)
    assert main([*arguments, "--output", str(stopped)]) == 130
    num_kept = len(answers_file(stopped).read_text().splitlines())
    assert num_kept >= 3
    assert not stopped.exists()
    capsys.readouterr()

    assert main([*arguments, "--output", str(stopped)]) == 0
    assert f"Continuing with the answers in {answers_file(stopped)}" in capsys.readouterr().out
    assert not answers_file(stopped).exists()
    # The one that was cut off is asked again, and the one before it is not.
    assert asked[1] == asked[2]
    assert asked[0] not in asked[1:]
    for name in ("samples.jsonl", "table.md"):
        assert (stopped / name).read_text() == (whole / name).read_text()
    made = [json.loads((folder / "figures.json").read_text()) for folder in (whole, stopped)]
    assert [one["provenance"]["continued"] for one in made] == [False, True]
    assert made[0]["rows"] == made[1]["rows"]
