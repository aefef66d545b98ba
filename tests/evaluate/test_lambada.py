import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.errors import UserError
from mta_jax.evaluate.__main__ import main
from mta_jax.evaluate.lambada import (
    LambadaConfig,
    evaluate_lambada,
    figures_of,
    passage_of,
    read_passages,
    score_passages,
)
from mta_jax.evaluate.text_model import models_of
from mta_jax.inference import Score
from mta_jax.training.loop import train
from tests.training.tiny import text_config

# The last one is longer than the 64 tokens of the model's context.
TEXTS = [
    "the end of the",
    "a loop over its  items",
    "one\ntwo words",
    "The statement " + "which is very long " * 6 + "ends",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, with passages beside it."""
    folder = tmp_path_factory.mktemp("lambada") / "run-0"
    train(text_config(), folder, name="lm")
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (folder.parent / "passages.jsonl").write_text("\n".join(lines))
    return folder


def config_of(run, **settings):
    settings = {"data": str(run.parent / "passages.jsonl")} | settings
    return LambadaConfig(checkpoint=str(run), **settings)


def by_plain_forward(model, text):
    """Log-probability of the last word from the logits of all tokens at once."""
    context = text[: text.rindex(" ")].rstrip()
    before = [model.tokenizer.bos_id, *context.encode()]
    target = list(text[len(context) :].encode())
    tokens = np.array((before + target)[-(model.context_length + 1) :], np.int32)
    decoder = model.language_model.decoder
    logits = nnx.merge(decoder.graphdef, decoder.params)(jnp.asarray(tokens[None, :-1]))[0]
    log_probs = np.asarray(jax.nn.log_softmax(logits))[-len(target) :]
    is_greedy = (log_probs.argmax(axis=-1) == target).all()
    return log_probs[np.arange(len(target)), target].sum(), is_greedy


def test_perplexity_is_that_of_a_plain_forward_pass(run):
    findings = evaluate_lambada(config_of(run))
    (model,) = models_of(config_of(run))
    expected = [by_plain_forward(model, text) for text in TEXTS]
    nlls = [-log_prob for log_prob, _ in expected]
    np.testing.assert_allclose([sample["nll"] for sample in findings.samples], nlls, rtol=1e-5)
    assert [sample["is_right"] for sample in findings.samples] == [right for _, right in expected]
    (row,) = findings.rows
    assert math.log(row["perplexity"]) == pytest.approx(np.mean(nlls), rel=1e-5)
    assert row["accuracy"] == np.mean([right for _, right in expected])
    assert [sample["tokens"] for sample in findings.samples] == [4, 7, 6, 5]


def test_figures_do_not_depend_on_the_batch(run):
    one, three = (evaluate_lambada(config_of(run, batch_size=size)).samples for size in (1, 3))
    np.testing.assert_allclose([s["nll"] for s in one], [s["nll"] for s in three], rtol=1e-5)


def test_words_that_are_certain_make_a_perplexity_of_one():
    assert figures_of([Score(0.0, 3, True)] * 5) == {"perplexity": 1.0, "accuracy": 1.0}
    half = figures_of([Score(0.0, 2, True), Score(2 * math.log(0.25), 1, False)])
    assert half == {"perplexity": pytest.approx(4.0), "accuracy": 0.5}


def test_a_model_without_knowledge_is_at_chance(run):
    (model,) = models_of(config_of(run))
    decoder = model.language_model.decoder
    zeros = dataclasses.replace(decoder, params=jax.tree.map(jnp.zeros_like, decoder.params))
    language_model = dataclasses.replace(model.language_model, decoder=zeros)
    model = dataclasses.replace(model, language_model=language_model)
    scores = score_passages(model, read_passages(config_of(run)))
    for score in scores:
        chance = -score.num_tokens * math.log(model.tokenizer.vocab_size)
        assert score.log_prob == pytest.approx(chance, rel=1e-5)
    assert figures_of(scores)["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("text", "context", "target"),
    [
        ("of the end", "of the", " end"),
        ("white  space", "white", "  space"),
        ("a line\n of", "a line", "\n of"),
        ('he said , " no', 'he said , "', " no"),
    ],
)
def test_a_passage_is_cut_before_its_last_word(text, context, target):
    passage = passage_of("x", text)
    assert (passage.context, passage.target) == (context, target)


@pytest.mark.parametrize("text", ["word", "word ", " word", "two words "])
def test_a_passage_without_a_last_word_is_refused(text):
    with pytest.raises(UserError, match="data x: expected a passage that ends in a space and"):
        passage_of("x", text)


def test_limit_takes_the_first_passages(run):
    assert len(read_passages(config_of(run, limit=2))) == 2
    assert len(read_passages(config_of(run, limit=9))) == 4


def test_the_command_prints_a_table_and_writes_what_became_of_each(run, capsys, tmp_path):
    flags = ["--checkpoint", str(run), "--data", str(run.parent / "passages.jsonl")]
    assert main(["lambada", *flags, "--output", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "run-0, step 4" in output
    assert "mta 13.2 / 8.4" in output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["rows"][0]["passages"] == 4
    samples = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["target"] for line in samples] == [
        " the",
        "  items",
        " words",
        " ends",
    ]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--data", "x.jsonl"], 2, "data x.jsonl: no such file"),
        (["--data", "x.jsonl"], 2, "huggingface.co/datasets/EleutherAI/lambada_openai"),
        (["--data", "bad.jsonl"], 1, "bad.jsonl:2: no field 'text' among 'txt'"),
        (["--data", "short.jsonl"], 1, "short.jsonl:1: expected a passage that ends in"),
        (["--data", "empty.jsonl"], 1, "empty.jsonl: holds no text"),
    ],
)
def test_mistakes_are_one_line(run, capsys, tmp_path, monkeypatch, flags, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"text": "of the end"}\n{"txt": "of the end"}')
    (tmp_path / "short.jsonl").write_text('{"text": "word"}')
    (tmp_path / "empty.jsonl").write_text("")
    assert main(["lambada", "--checkpoint", str(run), *flags]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"), [({"limit": 0}, "limit 0: must"), ({"data": []}, "name at least one")]
)
def test_a_setting_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LambadaConfig(checkpoint="a", **settings)
