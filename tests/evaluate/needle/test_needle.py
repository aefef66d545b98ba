import dataclasses
import json
import re

import numpy as np
import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.data.haystack import Haystack, load_haystack
from mta_jax.data.needles import NeedleContext
from mta_jax.errors import ConfigError
from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.needle.config import NeedleConfig
from mta_jax.evaluate.needle.evaluation import evaluate_model, pictures
from mta_jax.evaluate.needle.samples import Cell, Contexts, choices_for
from mta_jax.evaluate.needle.scoring import right_in_text
from mta_jax.training.loop import train
from tests.evaluate.stand_ins import Guesser, Oracle
from tests.training.tiny import text_config

HAYSTACK = Haystack("here", [f"Sentence {number} of it." for number in range(400)], "digest")


def config(**settings):
    return NeedleConfig(
        **{
            "checkpoint": "none",
            "lengths": [600, 900],
            "needles": [2, 4],
            "depths": [0.0, 50.0, 100.0],
            "samples": 40,
        }
        | settings
    )


def read(prompt):
    """The right continuation of a prompt, found in its text by its question."""
    numbers = dict(re.findall(r"magic number of ([\w ]+) is (\d+)\.", prompt))
    asked = re.search(r"Question: What (?:is|are) the magic numbers? of (.*)\?", prompt)[1]
    cities = re.split(r", | and ", asked)
    current = re.search(r"The magic number of ([\w ]+) is$", prompt)[1]
    rest = cities[cities.index(current) + 1 :]
    facts = [f"The magic number of {city} is {numbers[city]}." for city in rest]
    return " ".join([f" {numbers[current]}.", *facts])


@pytest.mark.parametrize("settings", [{}, {"asked": 2}, {"digits": 5}])
def test_who_reads_finds_every_needle(settings):
    rows, samples = evaluate_model(Oracle(read), config(**settings), HAYSTACK)
    assert len(rows) == 2 * 2 * 3
    assert len(samples) == len(rows) * 40
    assert all(row.generated == row.likeliest == 1.0 for row in rows)


def test_who_guesses_finds_as_many_as_chance():
    asked = config(samples=200, digits=1)
    rows, _ = evaluate_model(Guesser(), asked, HAYSTACK)
    assert {row.chance for row in rows} == {0.1}
    num_samples = 200 * len(rows)
    deviation = np.sqrt(0.1 * 0.9 / num_samples)
    for measure in ("generated", "likeliest"):
        share = np.mean([getattr(row, measure) for row in rows])
        assert abs(share - 0.1) < 4 * deviation


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" 12. The magic number of Oslo is 34.", [True, True]),
        (" 12. The magic number of Oslo is 35. Oslo is 34.", [True, False]),
        (" 123. The magic number of Oslo is 34", [False, True]),
        (" 12 and 34", [True, False]),
        (" of course 12", [False, False]),
        (" not here. The magic number of Rome is 12. Oslo is 34.", [False, True]),
        (" 12. The magic number of Oslo is unknown. Oslo is 34.", [True, False]),
        ("", [False, False]),
    ],
)
def test_an_answer_is_right_where_the_number_stands_behind_its_city(text, right):
    context = NeedleContext("", ["Rome", "Oslo", "Bern"], ["12", "34", "56"], 2, 0.0)
    assert right_in_text(context, text) == right


def test_a_context_is_built_again_from_its_line(tmp_path):
    _, samples = evaluate_model(Oracle(read), config(samples=2), HAYSTACK)
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    contexts = Contexts(HAYSTACK, ByteTokenizer())
    seen = set()
    for line in (tmp_path / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        context = contexts.rebuilt(row)
        assert [{"city": city, "number": number} for city, number in context.asked] == row["asked"]
        assert read(context.prompt) == context.answer
        seen.add(context.text)
    assert len(seen) == len(samples)
    other = Contexts(dataclasses.replace(HAYSTACK, digest="other"), ByteTokenizer())
    with pytest.raises(ConfigError, match="is not the text that the row was made of"):
        other.rebuilt(samples[0])
    with pytest.raises(ConfigError, match="is not the one that the row was made with"):
        contexts.rebuilt(samples[0] | {"tokenizer": "other"})
    with pytest.raises(ConfigError, match="this version draws another one"):
        contexts.rebuilt(samples[0] | {"sample": 1})


def test_a_cell_does_not_depend_on_the_others():
    contexts = Contexts(HAYSTACK, ByteTokenizer())
    cell = Cell(600, 2, 1, 50.0, 1)
    one = contexts.draw(cell, seed=3, sample=1)
    assert one == contexts.draw(Cell(**dataclasses.asdict(cell)), seed=3, sample=1)
    others = [
        contexts.draw(dataclasses.replace(cell, depth=50.5), seed=3, sample=1),
        contexts.draw(cell, seed=4, sample=1),
        contexts.draw(cell, seed=3, sample=2),
    ]
    assert one.cities not in [other.cities for other in others]


@pytest.mark.parametrize(("num_needles", "digits", "count"), [(2, 1, 10), (4, 3, 10), (12, 3, 12)])
def test_choices_hold_the_numbers_of_all_needles_and_tell_nothing(num_needles, digits, count):
    cell = Cell(900, num_needles, 1, 50.0, digits)
    contexts = Contexts(HAYSTACK, ByteTokenizer())
    places = []
    for sample in range(30):
        context = contexts.draw(cell, seed=0, sample=sample)
        choices = choices_for(context, cell, seed=0, sample=sample)
        assert len(choices) == len(set(choices)) == count
        assert set(context.numbers) <= set(choices)
        assert {len(choice) for choice in choices} == {digits}
        places.append(choices.index(context.numbers[0]))
    assert len(set(places)) > 4


def test_pictures_show_every_cell():
    rows, _ = evaluate_model(Oracle(read), config(samples=1), HAYSTACK)
    figures = pictures([dataclasses.replace(row, model="a/b") for row in rows])
    assert list(figures) == ["a_b_generated", "a_b_likeliest"]
    panels = [axes for axes in figures["a_b_generated"].axes if axes.images]
    assert [panel.get_title() for panel in panels] == ["2 needles", "4 needles"]
    assert all(panel.images[0].get_array().shape == (3, 2) for panel in panels)
    assert all(float(panel.images[0].get_array().min()) == 100.0 for panel in panels)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        train(text_config(), folder / name, name="lm")
    return folder


def test_the_command(runs, tmp_path, capsys):
    (tmp_path / "hay.txt").write_text(" ".join(HAYSTACK.sentences))
    settings = [
        *("--checkpoint", str(runs / "*"), "--haystack", str(tmp_path / "hay.txt")),
        *("--lengths", "[300]", "--needles", "[1, 2]", "--depths", "[0, 100]", "--samples", "3"),
        *("--batch_size", "4", "--allow_extrapolation", "--output", str(tmp_path / "out")),
    ]
    assert main(["needle", *settings]) == 0
    printed = capsys.readouterr().out
    assert "Needles found, greedy decoding" in printed
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert [row["model"] for row in figures["rows"]] == ["a"] * 4 + ["b"] * 4
    assert {"command", "commit", "device", "jax", "seconds"} <= set(figures["provenance"])
    lines = (tmp_path / "out/samples.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 4 * 3
    haystack = load_haystack([str(tmp_path / "hay.txt")], setting="haystack")
    contexts = Contexts(haystack, ByteTokenizer())
    for row in map(json.loads, lines):
        city = row["asked"][0]["city"]
        assert f"The magic number of {city} is {row['asked'][0]['number']}." in (
            contexts.rebuilt(row).text
        )
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {f"{m}_{s}.png" for m in "ab" for s in ("generated", "likeliest")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--lengths", "[300]"], r"lengths 300: checkpoint .*a/checkpoints/\d+ is made for 64"),
        (
            ["--lengths", "[60]"],
            r"length 60: 2 needles with a question for 1 take up to \d+ tokens",
        ),
        (
            ["--lengths", "[30000]", "--allow_extrapolation"],
            r"haystack .*hay.txt: has 7,890 tokens, and a context has 30,000",
        ),
        (["--haystack", "nowhere"], "haystack nowhere: no such file"),
        (["--needles", "[0]"], r"needles \[0\]: must be in 1..175"),
        (["--needles", "[1]", "--asked", "2"], "asked 2: must be at most the needles 1"),
        (["--depths", "[101]"], r"depths \[101.0\]: must be in 0..100 each"),
        (["--checkpoint", "nowhere/*"], r"checkpoint nowhere/\*: matches no run folder"),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, capsys, settings, message):
    (tmp_path / "hay.txt").write_text(" ".join(HAYSTACK.sentences))
    own = {
        "--checkpoint": str(runs / "a"),
        "--haystack": str(tmp_path / "hay.txt"),
        "--lengths": "[64]",
        "--needles": "[2]",
    }
    given = [part for name, value in own.items() if name not in settings for part in (name, value)]
    try:
        code = main(["needle", *given, *settings, "--output", str(tmp_path / "out")])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
