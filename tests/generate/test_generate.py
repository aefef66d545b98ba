import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mta_jax.errors import ConfigError
from mta_jax.generate import Limits, Sampling, load_model
from mta_jax.generate.__main__ import main
from mta_jax.generate.config import GenerateConfig
from mta_jax.generate.prompts import read_prompts
from mta_jax.training.loop import train
from mta_jax.training.saved_weights import check_tokenizer, read_weights
from tests.training.tiny import text_config, toy_config

GREEDY = Sampling(temperature=0.0)
LONG = "The quick brown fox " * 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a language model with rows of 64 tokens."""
    folder = tmp_path_factory.mktemp("runs") / "lm"
    train(text_config(), folder, name="lm")
    return folder


@pytest.fixture(scope="module")
def model(run):
    return load_model(run)


@pytest.fixture(scope="module")
def endless(model):
    """A model whose texts have no end token."""
    return dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, eos_id=-1))


def test_text_is_the_likeliest_step_by_step(run, model):
    (text,) = model.generate(["The "], max_new_tokens=12, sampling=GREEDY)
    saved = read_weights(run, "run")
    tokenizer = model.tokenizer
    row = np.concatenate([[tokenizer.bos_id], tokenizer.encode("The "), text.tokens])
    logits = nnx.merge(saved.program.graphdef, saved.params)(jnp.asarray(row[None]))
    likeliest = jnp.argmax(logits[0, :, : tokenizer.vocab_size], axis=-1)
    np.testing.assert_array_equal(likeliest[4:-1], text.tokens)
    assert text.text == tokenizer.decode(text.tokens)
    assert (text.prompt, text.finish) == ("The ", "length")
    log_probs = jax.nn.log_softmax(logits[0, 4:-1])[np.arange(12), text.tokens]
    np.testing.assert_allclose(text.log_probs, log_probs, rtol=0, atol=1e-4)


def test_stop_strings_end_a_text(model):
    (whole,) = model.generate(["The "], max_new_tokens=40, sampling=GREEDY)
    stop = whole.text[5:7]
    (text,) = model.generate(["The "], max_new_tokens=40, sampling=GREEDY, stop=[stop])
    assert text.text == whole.text[: whole.text.index(stop)]
    assert text.finish == "stop"
    # Tokens are the same whenever somebody looks, the last one completes the stop string.
    for block in (1, 5, 16):
        (other,) = model.generate(
            ["The "], max_new_tokens=40, sampling=GREEDY, stop=[stop], limits=Limits(block=block)
        )
        assert model.tokenizer.decode(other.tokens) == text.text + stop
        assert len(other.log_probs) == len(other.tokens) == len(text.tokens)


def test_a_seed_a_prompt_and_a_sample_decide_what_is_drawn(model):
    first = model.generate(["a", "b"], max_new_tokens=8, num_samples=2, seed=3)
    again = model.generate(["b"], max_new_tokens=8, num_samples=2, seed=3, numbers=[1])
    assert [text.text for text in first[2:]] == [text.text for text in again]
    assert len({text.text for text in first}) == 4
    assert [text.prompt for text in first] == ["a", "a", "b", "b"]


def test_tokens_are_as_many_as_the_context_has_room_for(endless):
    short, long = endless.generate(["x", "x" * 50], sampling=GREEDY)
    assert endless.context_length == 64
    # Each prompt has its own room, whatever is beside it.
    assert (len(short.tokens), len(long.tokens)) == (64 - 2, 64 - 51)
    assert (short.finish, long.finish) == ("length", "length")
    (alone,) = endless.generate(["x"], sampling=GREEDY)
    np.testing.assert_array_equal(alone.tokens, short.tokens)


def test_a_window_lifts_the_limit(endless):
    (text,) = endless.generate(
        [LONG], max_new_tokens=40, sampling=GREEDY, limits=Limits(window=32, chunk=16)
    )
    assert len(text.tokens) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [LONG]}, "prompt of 101 tokens: the model's context is 64; shorten it by at"),
        ({"prompts": ["x"], "max_new_tokens": 90}, "context of 64 has room for 62"),
        ({"prompts": ["x"], "max_new_tokens": 0}, "max_new_tokens 0: must be at least 1"),
        ({"prompts": []}, "give at least one"),
        ({"prompts": ["x"], "stop": ["a", ""]}, "stop '': an empty string would end every text"),
    ],
)
def test_a_call_that_cannot_be_is_refused(model, arguments, message):
    with pytest.raises(ConfigError, match=message):
        model.generate(**arguments)


def test_a_longer_context_may_be_asked_for(run, endless):
    longer = dataclasses.replace(endless, context_length=200)
    (text,) = longer.generate([LONG], sampling=GREEDY)
    assert len(text.tokens) == 99
    assert load_model(run, context_length=200).context_length == 200
    with pytest.raises(ConfigError, match="context_length 0: must be at least 1"):
        load_model(run, context_length=0)


def command(run, *arguments):
    return main(["--checkpoint", str(run), "--max_new_tokens", "8", *arguments])


def test_the_command_prints_the_text_as_it_comes(run, model, capsys):
    assert command(run, "--prompt", "The ", "--temperature", "0", "--block", "2") == 0
    (text,) = model.generate(["The "], max_new_tokens=8, sampling=GREEDY)
    printed = capsys.readouterr()
    assert printed.out == f"The {text.text}\n"
    assert "8 tokens in" in printed.err
    assert "tokens per second after the first 2 of each text" in printed.err


def test_without_a_prompt_it_begins_a_document(run, model, capsys):
    assert command(run, "--seed", "4") == 0
    (text,) = model.generate([""], max_new_tokens=8, seed=4)
    assert capsys.readouterr().out == f"{text.text}\n"


def test_several_samples_are_told_apart(run, capsys):
    assert command(run, "--prompt", "The ", "--num_samples", "2") == 0
    out = capsys.readouterr().out
    assert out.count("--- ") == 2
    assert out.count("The ") >= 2


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_prompts_of_a_file_are_written_to_a_file(run, model, tmp_path, form):
    prompts = ["one", "a much longer prompt than that", "three"]
    file, output = tmp_path / f"prompts.{form}", tmp_path / "texts.jsonl"
    lines = prompts if form == "txt" else [json.dumps({"prompt": prompt}) for prompt in prompts]
    file.write_text("\n".join(lines) + "\n\n")
    flags = ["--prompt_file", str(file), "--output", str(output), "--batch_size", "2"]
    assert command(run, *flags, "--temperature", "0", "--log_probs") == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    expected = model.generate(prompts, max_new_tokens=8, sampling=GREEDY)
    assert [row["prompt"] for row in rows] == prompts
    for row, text in zip(rows, expected, strict=True):
        assert (row["text"], row["finish"]) == (text.text, text.finish)
        assert row["tokens"] == text.tokens.tolist()
        np.testing.assert_allclose(row["log_probs"], text.log_probs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--prompt", ""], 2, "prompt '': is empty; leave it out to begin a document"),
        (["--prompt", LONG], 2, "prompt of 101 tokens: the model's context is 64"),
        (["--prompt", "a", "--prompt_file", "b"], 2, "prompt and prompt_file: give one of them"),
        (["--prompt_file", "nowhere.txt"], 1, "prompt_file nowhere.txt: cannot be read"),
        (["--temperature", "-1"], 2, "temperature -1.0: must be at least 0"),
        (["--top_p", "2"], 2, "top_p 2.0: must be above 0 and at most 1"),
        (["--log_probs"], 2, "log_probs true without output: name a file for them"),
        (["--output", "nowhere/out.jsonl"], 1, "output nowhere/out.jsonl: cannot be written"),
        (["--block", "0"], 2, "block 0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, flags, code, message):
    try:
        found = command(run, *flags)
    except SystemExit as error:
        found = error.code
    printed = capsys.readouterr().err.splitlines()
    assert found == code
    assert len(printed) == 1
    assert printed[0].startswith("mta_jax.generate: error: ")
    assert message in printed[0]


def test_a_prompt_that_does_not_fit_is_found_before_anything_is_written(run, tmp_path, capsys):
    file, output = tmp_path / "prompts.txt", tmp_path / "texts.jsonl"
    file.write_text(f"one\n{LONG}\n")
    flags = ["--prompt_file", str(file), "--output", str(output), "--batch_size", "1"]
    assert command(run, *flags) == 2
    assert "prompt of 101 tokens" in capsys.readouterr().err
    assert not output.exists()


def test_output_through_a_link_reaches_its_target(run, tmp_path):
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.touch()
    link.symlink_to(target)
    assert command(run, "--prompt", "The ", "--output", str(link)) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["prompt"] == "The "


def test_only_newlines_part_prompts(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\x0cstill\u2028one\r\ntwo\n", encoding="utf-8")
    assert read_prompts(str(file)) == ["one\x0cstill\u2028one", "two"]


def test_a_file_without_prompts_is_named(run, tmp_path, capsys):
    for name, content, message in (
        ("a.txt", "\n \n", "holds no prompt"),
        ("b.jsonl", '{"text": "x"}', 'line 1: must be an object with a text "prompt"'),
        ("c.jsonl", "{", "line 1: is no JSON"),
        ("d.txt", b"\xff\xfe\x00", "is no UTF-8 text"),
    ):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert command(run, "--prompt_file", str(file)) in (1, 2)
        assert message in capsys.readouterr().err


def test_a_tokenizer_that_does_not_fit_is_named(tmp_path):
    config = toy_config(num_steps=2, log_every=2, evaluate_every=2)
    train(config, tmp_path / "letters", name="letters")
    model = load_model(tmp_path / "letters")
    assert model.tokenizer.vocab_size == 32
    saved = read_weights(tmp_path / "letters", "run")
    other = dataclasses.replace(saved, tokenizer="another")
    with pytest.raises(ConfigError, match="its tokenizer was another one"):
        check_tokenizer(other, model.tokenizer, "checkpoint")


def test_a_place_without_a_model_is_named(tmp_path, capsys):
    assert main(["--checkpoint", str(tmp_path / "nowhere"), "--prompt", "a"]) == 1
    assert "no such folder; expected a run folder" in capsys.readouterr().err


def test_settings_are_those_of_sampling_and_limits():
    config = GenerateConfig(checkpoint="x", top_k=3, block=2, stop="end")
    assert config.sampling == Sampling(top_k=3)
    assert config.limits == Limits(block=2)
    assert config.stop_strings == ["end"]
