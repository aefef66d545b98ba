import json
import math

import pytest

from mta_jax.errors import ConfigError
from mta_jax.evaluate.babilong.config import BabilongConfig
from mta_jax.evaluate.babilong.evaluation import ask, haystack_of, stories_of
from mta_jax.evaluate.babilong.report import figures_of, findings_of
from mta_jax.evaluate.babilong.samples import sample_of_row
from mta_jax.evaluate.babilong.tasks import TASKS
from tests.evaluate.babilong.solver import answer_of
from tests.evaluate.babilong.test_files import BABI
from tests.evaluate.stand_ins import Guesser, Oracle


def solver(**changes):
    return Oracle(answer_of, **changes)


def asked(model, haystack_file, **settings):
    config = BabilongConfig(checkpoint="none", haystack=haystack_file, **settings)
    stories, haystack = stories_of(config), haystack_of(config)
    return ask(model, config, stories=stories, haystack=haystack), stories, haystack


def test_a_model_that_solves_has_all_right_whatever_the_distraction(haystack_file):
    rows, _, _ = asked(solver(), haystack_file, samples=6, lengths=[0, 2048, 4096])
    assert len(rows) == 5 * 3 * 6
    assert all(row["generated_right"] and row["likeliest_right"] for row in rows)
    figures = figures_of(rows)
    assert [(row["length"], row["task"]) for row in figures] == [
        (length, task)
        for length in (0, 2048, 4096)
        for task in ("QA1", "QA2", "QA3", "QA4", "QA5", "average")
    ]
    assert all(row["generated"] == row["likeliest"] == 1 for row in figures)
    hidden = [row for row in figures if row["length"]]
    assert all(row["length"] - 1 <= row["tokens"] <= row["length"] for row in hidden)


def test_a_model_that_guesses_is_right_by_chance(haystack_file):
    rows, _, _ = asked(Guesser(), haystack_file, samples=150, lengths=[0])
    for row in figures_of(rows):
        spread = math.sqrt(row["chance"] * (1 - row["chance"]) / row["samples"])
        assert abs(row["likeliest"] - row["chance"]) < 4.5 * spread, row
        assert row["generated"] == 0
    assert figures_of(rows)[0]["chance"] == pytest.approx(1 / 6)
    assert figures_of(rows)[4]["chance"] == pytest.approx(1 / 7)


def test_the_average_counts_each_task_the_same(haystack_file):
    rows, _, _ = asked(Guesser(), haystack_file, samples=20, lengths=[0], tasks=[1, 3])
    *tasks, average = figures_of(rows)
    assert [row["task"] for row in tasks] == ["QA1", "QA3"]
    assert average["task"] == "average"
    assert average["samples"] == 40
    assert average["likeliest"] == pytest.approx(sum(row["likeliest"] for row in tasks) / 2)


def test_the_same_stories_are_asked_at_every_length(haystack_file):
    rows, _, _ = asked(solver(), haystack_file, samples=4, lengths=[2048, 0, 4096], tasks=[3])
    stories = {
        length: [row["story"] for row in rows if row["length"] == length]
        for length in (0, 2048, 4096)
    }
    assert stories[0] == stories[2048] == stories[4096]
    again, _, _ = asked(solver(), haystack_file, samples=4, lengths=[2048, 0, 4096], tasks=[3])
    assert again == rows
    other, _, _ = asked(solver(), haystack_file, samples=4, lengths=[2048], tasks=[3], seed=1)
    assert {row["prompt_digest"] for row in other}.isdisjoint(r["prompt_digest"] for r in rows)


def test_the_lines_of_samples_make_them_again(haystack_file):
    rows, stories, haystack = asked(solver(), haystack_file, samples=2, lengths=[0, 2048])
    for row in map(json.loads, map(json.dumps, rows)):
        sample = sample_of_row(
            row, stories=stories, haystack=haystack, tokenizer=solver().tokenizer
        )
        assert (sample.story.question, sample.story.answer) == (row["question"], row["answer"])
        assert sample.num_tokens == row["tokens"]


def test_generated_stories_are_never_called_babi(haystack_file):
    rows, _, _ = asked(solver(), haystack_file, samples=2, lengths=[0, 2048])
    findings = findings_of(rows)
    shown = json.dumps([findings.rows, findings.samples])
    shown += "".join(table.markdown() for table in findings.tables)
    shown += "".join(str(figure.get_suptitle()) for figure in findings.pictures.values())
    assert "bAbI-style (generated)" in shown
    assert "bAbI" not in shown.replace("bAbI-style (generated)", "")


def test_stories_of_files_are_named(haystack_file, folder):
    rows, _, _ = asked(solver(), haystack_file, samples=3, lengths=[0], tasks=[1], babi=str(folder))
    assert {row["source"] for row in rows} == {"bAbI (test)"}
    (table,) = findings_of(rows).tables
    assert table.title == "BABILong, bAbI (test), facts alone (0), 3 questions per task"


@pytest.mark.skipif(not BABI, reason="MTA_JAX_BABI names no folder with bAbI's files")
def test_babis_questions_are_solved(haystack_file):
    rows, _, _ = asked(solver(), haystack_file, samples=20, lengths=[0, 4096], babi=BABI)
    assert all(row["generated_right"] and row["likeliest_right"] for row in rows)


def test_the_table_has_both_scores_of_each_model_and_chance(haystack_file):
    rows, _, _ = asked(solver(), haystack_file, samples=3, lengths=[0, 2048])
    guesses, _, _ = asked(Guesser(), haystack_file, samples=3, lengths=[0, 2048])
    alone, hidden = findings_of([*rows, *guesses], note="Noted.").tables
    assert "facts alone" in alone.title
    assert "in 2,048 tokens, 3 questions per task" in hidden.title
    assert list(hidden.columns[3:]) == [*(task.name for task in TASKS.values()), "average"]
    names = [tuple(row[:3]) for row in hidden.rows]
    assert names == [
        ("oracle", "none", "generated"),
        ("oracle", "none", "likeliest"),
        ("guesser", "none", "generated"),
        ("guesser", "none", "likeliest"),
        ("chance", "", "likeliest"),
    ]
    assert hidden.rows[0][3:] == ["100.0"] * 6
    assert hidden.rows[-1][3:] == ["16.7"] * 4 + ["14.3", "16.2"]
    assert hidden.note.endswith("Noted.")


def test_what_does_not_fit_the_model_is_refused(haystack_file):
    small = solver(context_length=1024)
    message = "lengths 2,048: .* has 2,048 tokens, and oracle is made for 1,024; give --allow_ext"
    with pytest.raises(ConfigError, match=message):
        asked(small, haystack_file, samples=2, lengths=[0, 2048])
    asked(small, haystack_file, samples=2, lengths=[0, 1024])
    asked(small, haystack_file, samples=2, lengths=[2048], allow_extrapolation=True)
    tiny = solver(context_length=300)
    with pytest.raises(
        ConfigError, match=r"lengths 0: a story of QA\d with its prompt has [\d,]+ t"
    ):
        asked(tiny, haystack_file, samples=2, lengths=[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": [6]}, "tasks 6: there are 1, 2, 3, 4, 5"),
        ({"tasks": []}, "name at least one"),
        ({"lengths": []}, "name at least one"),
        ({"lengths": [0, 0]}, "names one twice"),
        ({"lengths": [-1]}, "lengths -1"),
        ({"samples": 0}, "samples 0: must be at least 1"),
        ({"seed": -1}, "seed -1: must be at least 0"),
        ({"shots": -1}, "shots -1: must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: must be at least 1"),
        ({"haystack": []}, "haystack .*: name at least one"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BabilongConfig(checkpoint="a", **settings)
