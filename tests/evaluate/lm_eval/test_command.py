import importlib.resources
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager

from mta_jax.errors import ConfigError
from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.lambada import LambadaConfig, evaluate_lambada
from mta_jax.evaluate.lm_eval import loading, paper
from mta_jax.evaluate.lm_eval.config import LmEvalConfig
from mta_jax.evaluate.lm_eval.running import evaluate_tasks, harness_results
from mta_jax.evaluate.perplexity import PerplexityConfig, evaluate_perplexity

pytestmark = pytest.mark.once

# The last is longer than the 64 tokens of the model's context, and one has an odd space.
PASSAGES = ["the end of the", "a loop over its  items", "so long " * 12 + "a passage"]
TEXTS = ["Names in this manual", "are those of the grammar, with ümlauts.", "And one  more.\n"]


@pytest.fixture
def files(tmp_path):
    for name, texts in (("passages", PASSAGES), ("texts", TEXTS)):
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def evaluate(run, *tasks, **settings):
    config = LmEvalConfig(checkpoint=str(run), tasks=list(tasks), **settings)
    return {row["metric"]: row["value"] for row in evaluate_tasks(config).rows}


def test_lambada_local_is_our_lambada(run, files):
    data = str(files / "passages.jsonl")
    harness = evaluate(run, "lambada_local", data=data)
    (ours,) = evaluate_lambada(LambadaConfig(checkpoint=str(run), data=data)).rows
    assert math.log(harness["perplexity"]) == pytest.approx(math.log(ours["perplexity"]), rel=1e-6)
    assert harness["acc"] == ours["accuracy"]


def test_ppl_local_is_our_perplexity_but_for_the_ends(run, model, files):
    data = str(files / "texts.jsonl")
    harness = evaluate(run, "ppl_local", data=data)
    (ours,) = evaluate_perplexity(PerplexityConfig(checkpoint=str(run), texts={"a": data}))
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert ours.text_bytes == num_bytes
    # Ours predicts the end of each document, the harness does not.
    decoder, tokenizer = model.language_model.decoder, model.tokenizer
    module = nnx.merge(decoder.graphdef, decoder.params)
    ends = 0.0
    for text in TEXTS:
        tokens = np.concatenate([[tokenizer.bos_id], tokenizer.encode(text)])
        logits = module(jnp.asarray(tokens[None], jnp.int32))[0, -1]
        ends -= float(jax.nn.log_softmax(logits)[tokenizer.eos_id])
    expected = ours.bits_per_byte - ends / (math.log(2) * num_bytes)
    assert harness["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert harness["byte_perplexity"] == pytest.approx(2**expected, rel=1e-5)
    # The harness counts what is before, between and behind white space, be it nothing.
    num_words = 4 + 7 + 4
    per_word = expected * math.log(2) * num_bytes / num_words
    assert math.log(harness["word_perplexity"]) == pytest.approx(per_word, rel=1e-5)


def test_the_command_prints_a_table_and_writes_what_became_of_each(run, files, capsys, tmp_path):
    flags = ["--checkpoint", str(run), "--data", str(files / "passages.jsonl"), "--limit", "2"]
    flags += ["--tasks", "[lambada_local, ppl_local]", "--output", str(tmp_path / "out")]
    assert main(["lm_eval", *flags]) == 0
    output = capsys.readouterr().out
    assert "run-0, step 4" in output
    assert "The first 2 questions of each task only." in output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    found = {(row["task"], row["metric"]): row for row in figures["rows"]}
    assert list(found) == [
        ("lambada_local", "perplexity"),
        ("lambada_local", "acc"),
        ("ppl_local", "word_perplexity"),
        ("ppl_local", "byte_perplexity"),
        ("ppl_local", "bits_per_byte"),
    ]
    assert found["lambada_local", "acc"]["questions"] == 2
    lines = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["task"] for sample in samples] == ["lambada_local"] * 2 + ["ppl_local"] * 2
    assert samples[0]["target"] == " the"
    nll = -np.mean([sample["perplexity"] for sample in samples[:2]])
    assert math.log(found["lambada_local", "perplexity"]["value"]) == pytest.approx(nll)


def choice_task(tmp_path, **settings):
    questions = [{"q": f"Which is {n}", "choices": ["a", "b"], "answer": n % 2} for n in range(6)]
    (tmp_path / "choice.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return {
        "task": "choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "choice.jsonl")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "{{q}}:",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **settings,
    }


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [(None, None, 0), (1, None, 1), (None, 2, 2), (1, 2, 2), (0, 2, 0)],
)
def test_the_number_of_examples_is_ours_unless_a_task_has_none(
    model, tmp_path, own, asked, expected
):
    task = choice_task(tmp_path, **({} if own is None else {"num_fewshot": own}))
    loaded = TaskManager(include_defaults=False).load([task])
    loading._prepare(loaded["tasks"]["choice"], asked)
    config = LmEvalConfig(checkpoint="a", tasks=["choice"], output="b", limit=3)
    runs = [harness_results(model, loaded, config) for _ in range(2)]
    assert runs[0]["n-shot"]["choice"] == expected
    prompts = [[s["arguments"] for s in found["samples"]["choice"]] for found in runs]
    # Each model gets the same examples.
    assert prompts[0] == prompts[1]
    assert all(own[0][0].count("Which is") == expected + 1 for own in prompts[0])
    for sample in runs[0]["samples"]["choice"]:
        likeliest = int(np.argmax([log_prob for log_prob, _ in sample["filtered_resps"]]))
        assert sample["acc"] == (likeliest == sample["doc"]["answer"])


def test_tasks_of_our_own_are_shipped():
    folder = importlib.resources.files("mta_jax.evaluate.lm_eval") / "tasks"
    names = sorted(path.name.removesuffix(".yaml") for path in folder.iterdir())
    assert names == sorted(loading.LOCAL_TASKS)


def test_names_are_those_of_the_harness():
    manager = TaskManager()
    for name in paper.TASKS:
        loading.check_name(name, manager)
    with pytest.raises(ConfigError, match=r"tasks hellaswg: .* no such task; did you mean hella"):
        loading.check_name("hellaswg", manager)


def test_the_papers_figures_stand_below_ours():
    rows = [
        {"model": "mine", "task": task, "metric": metric, "value": 0.25 + number / 100}
        for number, task in enumerate(paper.TASKS)
        for metric in ("acc", "acc_norm")
    ]
    grid = paper.beside_the_paper([*rows, {**rows[0], "task": "mmlu_virology"}])
    assert list(grid.rows[0]) == ["mine", *(f"{25 + n}.0" for n in range(9)), "29.0"]
    for row in grid.rows[1:]:
        *figures, mean = map(float, row[1:])
        assert mean == pytest.approx(np.mean(figures), abs=0.051)


def test_data_that_cannot_be_had_is_one_line(run, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("task: nowhere\ndataset_path: nobody/nothing\n")
    flags = ["--tasks", "[nowhere]", "--include_path", str(tmp_path)]
    assert main(["lm_eval", "--checkpoint", str(run), *flags]) == 1
    error = capsys.readouterr().err
    assert "mta_jax.evaluate: error: task nowhere: its data cannot be loaded (" in error
    assert "nobody/nothing" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "[ppl_local]"], "data null: ppl_local reads files of JSON lines with a field"),
        (["--tasks", "[ppl_local]", "--data", "x.jsonl"], "data x.jsonl: no such file"),
        (["--tasks", "[ppl_local]", "--data", "folder"], "data folder: no such file"),
        (["--tasks", "[a]", "--include_path", "x"], "include_path x: no such folder"),
    ],
)
def test_mistakes_are_one_line(run, capsys, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"q": "of the end"}')
    assert main(["lm_eval", "--checkpoint", str(run), *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_line_without_text_is_named(run, capsys, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"text": "of the end"}\n{"q": "of the end"}')
    flags = ["--tasks", "[ppl_local]", "--data", str(tmp_path / "q.jsonl")]
    assert main(["lm_eval", "--checkpoint", str(run), *flags]) == 1
    assert "q.jsonl:2: no field 'text' among 'q'\n" in capsys.readouterr().err


def test_checkpoints_are_looked_at_before_tasks(capsys):
    assert main(["lm_eval", "--checkpoint", "nowhere", "--tasks", "[no_such_task]"]) == 1
    assert "checkpoint nowhere: no such folder" in capsys.readouterr().err


def test_more_context_than_a_model_is_made_for_has_to_be_asked_for(run, capsys):
    arguments = ["--checkpoint", str(run), "--tasks", "[no_such_task]", "--context_length", "1000"]
    assert main(["lm_eval", *arguments]) == 2
    assert "context_length 1,000: checkpoint" in capsys.readouterr().err
    assert main(["lm_eval", *arguments, "--allow-extrapolation"]) == 2
    assert "no_such_task" in capsys.readouterr().err


def test_a_missing_library_is_one_line(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["lm_eval", "--checkpoint", str(run), "--tasks", "[ppl_local]"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("pip install 'mta-jax[eval]'\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "tasks, preset: give one of them"),
        ({"tasks": ["a"], "preset": "paper"}, "tasks, preset: give one of them"),
        ({"tasks": ["a", "a"]}, "must name each once"),
        ({"tasks": ["a"], "num_fewshot": -1}, "num_fewshot -1: must be at least 0"),
        ({"tasks": ["a"], "limit": 0}, "limit 0: must be at least 1"),
        ({"tasks": ["a"], "context_length": 0}, "context_length 0: must be at least 1"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LmEvalConfig(checkpoint="a", **settings)


def test_the_preset_is_zero_shot_but_for_mmlu():
    config = LmEvalConfig(checkpoint="a", preset="paper")
    assert config.wanted == list(paper.TASKS)
    assert [config.shots_of(name) for name in config.wanted] == [0] * 8 + [5]
    assert LmEvalConfig(checkpoint="a", preset="paper", num_fewshot=1).shots_of("mmlu") == 1
