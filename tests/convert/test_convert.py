import dataclasses
import json
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import yaml

from mta_jax.convert.__main__ import main
from mta_jax.data.tokenizers import load_tokenizer, train_bpe
from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.perplexity import PerplexityConfig, evaluate_perplexity
from mta_jax.generate.language_model import load_model
from mta_jax.training import command
from mta_jax.training.config import SampleConfig
from mta_jax.training.loop import train
from mta_jax.training.saved_weights import read_weights
from tests.interop import hugging_face_models as models
from tests.interop import paper_code
from tests.training.tiny import text_config

pytestmark = models.quiet


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("convert")


@pytest.fixture(scope="module")
def llama(home):
    """A model of Hugging Face's in bfloat16, with a tokenizer."""
    folder = models.save(models.build("llama").bfloat16(), home / "llama")
    train_bpe(["one text", "another text"], 265, folder / "tokenizer.json")
    tokens = {"bos_token": {"content": "<|bos|>"}, "eos_token": "<|eos|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    models.edit(folder / "config.json", initializer_range=0.5)
    return folder


@pytest.fixture(scope="module")
def ours(home, llama):
    """The same as a folder of weights."""
    assert main(["--input", str(llama), "--output", str(home / "ours")]) == 0
    return home / "ours"


def run(capsys, *arguments):
    """The exit code, and what was printed and complained of."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def complaint(capsys, *arguments, code=2):
    found, out, error = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert error.startswith("mta_jax.convert: error: ")
    assert error.count("\n") == 1
    return error


def test_hugging_face_to_ours_and_back_is_bit_for_bit(capsys, llama, ours, tmp_path):
    back = tmp_path / "back"
    code, out, _ = run(capsys, "--input", ours, "--output", back, "--to", "hugging_face")
    assert code == 0
    found, expected = (
        safetensors.numpy.load_file(folder / "model.safetensors") for folder in (back, llama)
    )
    count = sum(tensor.size for tensor in expected.values())
    assert f"parameters  {count:,} in 21 arrays; none missing, none left over" in out
    assert "(bfloat16)" in out
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (tensor.dtype, tensor.tobytes())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (back / name).read_bytes() == (llama / name).read_bytes()


def test_the_papers_code_to_ours_and_back_is_bit_for_bit(capsys, tmp_path):
    tensors = paper_code.save("mta", tmp_path / "theirs" / "consolidated")
    assert run(capsys, "--input", tmp_path / "theirs", "--output", tmp_path / "ours")[0] == 0
    arguments = ["--input", tmp_path / "ours", "--output", tmp_path / "back", "--to", "lingua"]
    assert run(capsys, *arguments)[0] == 0
    found = paper_code.torch.load(tmp_path / "back" / "consolidated.pth", weights_only=True)
    assert found["model"].keys() == tensors.keys()
    assert all(paper_code.torch.equal(found["model"][name], tensors[name]) for name in tensors)
    message = complaint(capsys, *arguments[:3], tmp_path / "hf", "--to", "hugging_face")
    assert "model.attention mta: Hugging Face's models of the Llama family have ordinary" in message
    assert not (tmp_path / "hf").exists()


def test_a_folder_of_weights_has_settings_to_begin_with(ours, llama):
    settings = yaml.safe_load((ours / "config.yaml").read_text())
    assert settings["model"]["attention"] == "transformer"
    assert settings["model"]["dtype"] == "bfloat16"
    assert settings["data"]["text"]["tokenizer"] == str(ours / "tokenizer.json")
    assert settings["data"]["text"]["bos_token"] == "<|bos|>"
    assert settings["data"]["text"]["sequence_length"] == 64
    assert not (ours / "checkpoints").exists()
    saved = read_weights(ours, "init_from")
    text = settings["data"]["text"]
    tokenizer = load_tokenizer(
        str(llama / "tokenizer.json"), bos_token=text["bos_token"], eos_token=text["eos_token"]
    )
    assert (saved.step, saved.tokenizer) == (0, tokenizer.fingerprint)


def test_a_run_begins_with_converted_weights(ours, llama, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("one text and another text " * 400)
    domains = json.dumps({"mine": {"train": str(tmp_path / "text.txt")}})
    arguments = ["--config", str(ours / "config.yaml"), "--init_from", str(ours)]
    arguments += ["--data.text.domains", domains, "--run_dir", str(tmp_path / "run")]
    small = {"num_steps": 1, "log_every": 1, "evaluate_every": 1, "checkpoint.every": 1}
    small |= {"optimizer.warmup_steps": 1, "data.text.heldout_fraction": 0.0}
    small |= {"optimizer.learning_rate": 1e-12, "model.dtype": "float32"}
    small |= {"data.text.sequence_length": 16}
    arguments += [f"--{name}={value}" for name, value in small.items()]
    assert command.main(arguments, prog="train.py") == 0
    trained = read_weights(tmp_path / "run", "checkpoint")
    assert list(trained.program.config.data.text.domains) == ["mine"]
    begun = read_weights(ours, "init_from")
    for after, before in zip(
        jax.tree.leaves(trained.params), jax.tree.leaves(begun.params), strict=True
    ):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-9)
    # Its rows are shorter than the texts that the model is made for.
    assert load_model(tmp_path / "run").context_length == 64
    _goes_back_with_all_that_came_along(tmp_path, ours, llama, capsys)


def _goes_back_with_all_that_came_along(tmp_path, ours, llama, capsys):
    arguments = ["--input", tmp_path / "run", "--to", "hugging_face", "--output"]
    code, out, _ = run(capsys, *arguments, tmp_path / "back")
    assert (code, "note" in out) == (0, False)
    names = {path.name for path in llama.iterdir()}
    assert {path.name for path in (tmp_path / "back").iterdir()} == names
    for name in names - {"config.json", "model.safetensors"}:
        assert (tmp_path / "back" / name).read_bytes() == (llama / name).read_bytes()
    settings, before = (
        json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "back", llama)
    )
    assert settings["max_position_embeddings"] == before["max_position_embeddings"] == 64
    assert settings["rope_scaling"]["original_max_position_embeddings"] == 32
    assert settings["initializer_range"] == 0.5
    assert settings["dtype"] == "float32"
    # Where one of those files is gone, a line says so.
    path = ours / "chat_template.jinja"
    path.rename(tmp_path / path.name)
    code, out, _ = run(capsys, *arguments, tmp_path / "bare")
    (tmp_path / path.name).rename(path)
    assert (code, f"note        {path.name}: came along, and is not in {ours} now" in out) == (0, 1)


def test_the_context_of_converted_weights_is_that_of_the_model(llama, tmp_path, capsys):
    folder = tmp_path / "long"
    shutil.copytree(llama, folder)
    models.edit(folder / "config.json", max_position_embeddings=8192)
    assert run(capsys, "--input", folder, "--output", tmp_path / "ours")[0] == 0
    assert load_model(tmp_path / "ours").context_length == 8192
    assert load_model(tmp_path / "ours", context_length=9).context_length == 9


def test_the_command_that_a_folder_of_weights_names_may_hold_spaces(tmp_path, capsys):
    folder = models.save(models.build("llama-tied"), tmp_path / "llama")
    home = tmp_path / "my weights"
    arguments = ["--input", folder, "--output", home, "--tokenizer", "byte"]
    assert run(capsys, *arguments)[0] == 0
    lines = [line.lstrip("# ") for line in (home / "config.yaml").read_text().splitlines()[1:3]]
    words = shlex.split(" ".join(line.removesuffix("\\") for line in lines))
    assert words[words.index("--init_from") + 1] == str(home)
    assert words[words.index("--config") + 1] == str(home / "config.yaml")


def test_perplexity_is_that_of_a_moved_folder_too(ours, tmp_path):
    (tmp_path / "text.txt").write_text("one text and another text " * 20)
    moved = tmp_path / "moved"
    shutil.copytree(ours, moved)
    (row, other) = (
        evaluate_perplexity(
            PerplexityConfig(checkpoint=str(folder), texts={"t": str(tmp_path / "text.txt")})
        )[0]
        for folder in (ours, moved)
    )
    assert row.loss == other.loss
    (moved / "tokenizer.json").write_text((moved / "tokenizer.json").read_text() + " ")
    with pytest.raises(ConfigError, match=r"its tokenizer was another one"):
        evaluate_perplexity(PerplexityConfig(checkpoint=str(moved)))


def test_a_folder_of_weights_is_no_run_to_continue(ours, tmp_path, capsys):
    shutil.copytree(ours, tmp_path / "w")
    arguments = ["--config", str(ours / "config.yaml"), "--run_dir", str(tmp_path / "w")]
    assert command.main(arguments, prog="train.py") == 2
    assert "holds weights to begin a run with (init_from), and no run" in capsys.readouterr().err


def test_damaged_weights_are_noticed(ours, tmp_path):
    shutil.copytree(ours, tmp_path / "w")
    largest = max(
        (tmp_path / "w" / "weights").rglob("*"),
        key=lambda p: p.stat().st_size if p.is_file() else 0,
    )
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    largest.write_bytes(content)
    with pytest.raises(UserError, match=r"init_from .*: (is damaged|cannot be read)"):
        read_weights(tmp_path / "w", "init_from")


def test_a_run_of_ours_becomes_a_model_of_the_library(tmp_path, capsys):
    config = text_config(num_steps=2, evaluate_every=2, log_every=1, sample=SampleConfig())
    model = dataclasses.replace(config.model, attention="transformer", num_layers=2)
    result = train(dataclasses.replace(config, model=model), tmp_path / "run", name="lm")
    arguments = ["--input", tmp_path / "run", "--output", tmp_path / "hf", "--to", "hugging_face"]
    assert run(capsys, *arguments)[0] == 0
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (settings["bos_token_id"], settings["eos_token_id"]) == (256, 257)
    assert settings["max_position_embeddings"] == 64
    theirs = models.transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "hf", attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(0, 258, size=(2, 64)).astype(np.int32)
    saved = read_weights(tmp_path / "run", "checkpoint")
    found = jax.jit(lambda params: saved.program.model(params)(jnp.asarray(tokens)))(result.params)
    expected = models.logits(theirs, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_named_begin_and_end_reach_the_config_of_the_library(llama, tmp_path, capsys):
    ids = {"bos_token_id": 5, "eos_token_id": [7, 8]}
    folder = tmp_path / "llama"
    shutil.copytree(llama, folder)
    models.edit(folder / "config.json", **ids)
    tokenizer = load_tokenizer(str(llama / "tokenizer.json"))
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    assert {begin, end}.isdisjoint({5, 7, 8})

    def found(name, *arguments):
        code, out, _ = run(capsys, *arguments, "--output", tmp_path / name)
        assert code == 0
        path = tmp_path / name / "config.json"
        settings = json.loads(path.read_text()) if path.exists() else {}
        return settings.get("bos_token_id"), settings.get("eos_token_id"), out

    to = ["--to", "hugging_face"]
    assert found("as-it-was", "--input", folder, *to)[:2] == (5, [7, 8])
    *named, out = found("end", "--input", folder, "--eos_token", "<|eos|>", *to)
    assert named == [5, end]
    assert "tokenizer_config.json, generation_config.json: copied as it is, begin and end" in out
    # By way of ours, and with another tokenizer.
    found("ours", "--input", folder, "--bos_token", "<|eos|>")
    assert found("back", "--input", tmp_path / "ours", *to)[:2] == (end, [7, 8])
    assert found("byte", "--input", folder, "--tokenizer", "byte", *to)[:2] == (256, 257)


def test_a_dry_run_checks_names_and_writes_nothing(llama, tmp_path, capsys):
    code, out, _ = run(capsys, "--input", llama, "--output", tmp_path / "new", "--dry_run")
    assert code == 0
    assert "nothing was written: dry_run" in out
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "wrong"
    shutil.copytree(llama, folder)
    models.edit(folder / "config.json", num_hidden_layers=3)
    arguments = ["--input", folder, "--output", tmp_path / "new", "--dry_run"]
    message = complaint(capsys, *arguments, code=1)
    assert "9 tensors are missing: " in message
    assert "model.layers.*.input_layernorm.weight" in message


def test_an_output_is_never_overwritten(llama, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    message = complaint(capsys, "--input", llama, "--output", tmp_path / "there")
    assert "exists already; choose a new or empty folder" in message
    (tmp_path / "there" / "file").unlink()
    assert run(capsys, "--input", llama, "--output", tmp_path / "there")[0] == 0


def test_what_fails_leaves_nothing_behind(llama, tmp_path, capsys):
    folder, parent = tmp_path / "nan", tmp_path / "out"
    shutil.copytree(llama, folder)
    parent.mkdir()
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = np.full_like(tensors[name], np.nan)
    safetensors.numpy.save_file(tensors, path)
    message = complaint(capsys, "--input", folder, "--output", parent / "new", code=1)
    assert f"tensor {name} holds infinities or NaN" in message
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere"], "input nowhere: no such folder"),
        (["--tokenizer", "nowhere.json"], "data.text.tokenizer nowhere.json: no such file"),
        (["--bos_token", "<s>"], "bos_token '<s>': must be one of its special tokens"),
        (
            ["--retrofit", "mta", "--mta.kq_layers", "[9]"],
            "retrofit mta: mta.kq_layers names layer 9: must be in 0..1",
        ),
        (["--to", "lingua"], "model.rope_scaling.kind llama3: the paper's code has none"),
    ],
)
def test_a_wrong_setting_gets_a_line(llama, tmp_path, capsys, arguments, message):
    arguments = ["--input", llama, "--output", tmp_path / "new", *arguments]
    code, out, error = run(capsys, *arguments)
    assert code in (1, 2)
    assert out == ""
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_cannot_be_meant_are_refused(ours, tmp_path, capsys):
    message = complaint(capsys, "--input", ours, "--output", tmp_path / "new")
    assert "to native: input" in message
    message = complaint(capsys, "--input", tmp_path, "--output", tmp_path / "new")
    assert "holds no checkpoint that is known" in message
    with pytest.raises(SystemExit):
        main(["--input", "a", "--output", "b", "--dtype", "float16"])
    assert "dtype float16: weights of ours are float32" in capsys.readouterr().err
    arguments = ["--input", "a", "--output", "b", "--retrofit", "mta"]
    with pytest.raises(SystemExit):
        main([*arguments, "--mta.pre_kq_kernel_size", "[2, 2]"])
    assert "error: mta.pre_kq_kernel_size [2, 2]: with key_padding" in capsys.readouterr().err


def test_a_model_without_a_tokenizer_needs_one_named(tmp_path, capsys):
    folder = models.save(models.build("llama-tied"), tmp_path / "llama")
    message = complaint(capsys, "--input", folder, "--output", tmp_path / "new")
    assert "tokenizer null: the input comes with none; name its file, or byte" in message
    arguments = ["--input", folder, "--output", tmp_path / "new", "--tokenizer", "byte"]
    assert run(capsys, *arguments)[0] == 0
    assert read_weights(tmp_path / "new", "checkpoint").tokenizer == "byte"
