from pathlib import Path

import pytest

from mta_jax.command_line import parse
from mta_jax.command_line.plain import plain, to_yaml
from mta_jax.data import DomainConfig
from mta_jax.models import model_preset
from mta_jax.training.config import TrainConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


def read(*arguments):
    config, _ = parse(TrainConfig, arguments, prog="train.py", description="")
    return config


def complaint(capsys, *arguments):
    """The one line that a mistake prints."""
    with pytest.raises(SystemExit) as exit_info:
        read(*arguments)
    assert exit_info.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err.removeprefix("train.py: error: ").strip()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_loads(path):
    config = read("--config", str(path))
    assert config.run_dir.startswith("runs/")
    assert path.stem in path.read_text() or path.stem == "demo"


def test_later_files_and_then_the_command_line_win(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("seed: 1\nnum_steps: 10\nmodel:\n  embed_dim: 32\n  num_layers: 3\n")
    second.write_text("seed: 2\nmodel:\n  embed_dim: 48\n")
    config = read("--config", str(first), "--config", str(second), "--model.embed_dim", "64")
    assert (config.seed, config.num_steps) == (2, 10)
    assert (config.model.embed_dim, config.model.num_layers) == (64, 3)


def test_a_saved_config_reads_back_as_the_same_run(tmp_path):
    config = read("--model.attention", "[mta, transformer]", "--model.mta.kq_layers", "[1]")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read("--config", str(tmp_path / "config.yaml")) == config


def test_a_preset_is_a_section_of_its_own():
    presets = Path(__file__).parents[1] / "mta_jax" / "models" / "presets"
    before = ["--model.mlp_dim", "7", "--model.mta.group_norm", "null"]
    config = read(*before, "--model", str(presets / "880m.yaml"), "--model.attention", "diff")
    assert config.model == model_preset("880m", "diff")


def test_sections_by_name_come_from_files_and_change_on_the_command_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {text: {domains: {a: {train: x, weight: 1}, b: {train: [y, z]}}}}")
    flags = ["--data.text.domains.b.weight", "3e-1", "--data.text.domains.c.train=[q]"]
    with pytest.raises(SystemExit):
        read("--config", str(path), *flags)
    config = read("--config", str(path), *flags, "--data.text.domains.c.weight", "0")
    assert config.data.text.domains == {
        "a": DomainConfig(train="x", weight=1.0),
        "b": DomainConfig(train=["y", "z"], weight=0.3),
        "c": DomainConfig(train=["q"], weight=0.0),
    }


def test_scientific_notation_is_a_number(tmp_path):
    (tmp_path / "a.yaml").write_text("optimizer:\n  learning_rate: 1e-3\n")
    assert read("--config", str(tmp_path / "a.yaml")).optimizer.learning_rate == 1e-3


def test_a_flag_of_a_yes_or_no_setting_may_stand_alone():
    config = read("--model.scan_layers", "--processes.start", "--seed", "3")
    assert (config.model.scan_layers, config.processes.start, config.seed) == (True, True, 3)
    config = read("--seed", "3", "--model.scan_layers", "false", "--processes.start")
    assert (config.model.scan_layers, config.processes.start) == (False, True)


def test_dry_run_is_told_apart():
    for flag in ("--dry_run", "--dry-run"):
        assert parse(TrainConfig, [flag], prog="x", description="")[1]


def test_flags_may_be_spelled_with_hyphens():
    config = read("--log-every", "5", "--data.text.sequence-length=7", "--model.scan-layers")
    assert (config.log_every, config.data.text.sequence_length) == (5, 7)
    assert config.model.scan_layers
    # The names of sections are the user's.
    config = read("--data.text.domains.my-own.train", "python:docs")
    assert "my-own" in config.data.text.domains


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as exit_info:
        read("--help")
    assert exit_info.value.code == 0
    text = " ".join(capsys.readouterr().out.split())

    def check(section, prefix):
        for name, value in section.items():
            # The names of domains are the user's.
            if isinstance(value, dict) and name != "domains":
                check(value, f"{prefix}{name}.")
            else:
                assert f"--{prefix}{name} " in text

    check(plain(TrainConfig()), "")
    assert "Peak learning rate." in text
    assert "Decides weights, data order and dropout." in text


def test_print_config_prints_a_config_file(capsys, tmp_path):
    with pytest.raises(SystemExit):
        read("--seed", "7", "--print_config")
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert read("--config", str(tmp_path / "printed.yaml")) == read("--seed", "7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model.num_layer", "3"],
            "unknown setting 'model.num_layer'; did you mean 'model.num_layers'?",
        ),
        (["--num_step=3"], "unknown setting 'num_step'; did you mean 'num_steps'?"),
        (["--num_steps", "ten"], "num_steps ten: expected int"),
        (["--optimizer.learning_rate", "fast"], "optimizer.learning_rate fast: expected float"),
        (
            ["--model.attention", "mat"],
            "model.attention mat: expected transformer | mta | talking_heads | diff or a list of "
            "transformer | mta | talking_heads | diff",
        ),
        (
            ["--model.mta.pre_kq_kernel_size", "[2, 4]"],
            "model.mta.pre_kq_kernel_size [2, 4]: with key_padding 'both' the key size must be "
            "odd, such as 5; 'left' and 'right' take any",
        ),
        (
            ["--model.mta.pre_kq_kernel_size", "[1, 2, 3]"],
            "model.mta.pre_kq_kernel_size [1, 2, 3]: expected [int, int] or null",
        ),
        (
            ["--model.num_heads", "4", "--model.mta.pre_head_kernel_size", "3"],
            "model.mta.pre_head_kernel_size 3: must divide num_heads 4",
        ),
        (
            ["--data.block_search.block_size", "27"],
            "data.block_search.block_size 27: a block has 1 to 26 different letters",
        ),
        (["--config", "missing.yaml"], "config missing.yaml: no such file"),
        (["--num_steps", "null"], "num_steps null: expected int"),
        (["--optimizer.learning_rate", "1e400"], "optimizer.learning_rate inf: must be finite"),
        (["--sample.temperature", ".nan"], "sample.temperature nan: must be finite"),
        (["--optimizer.min_ratio", "2"], "optimizer.min_ratio 2.0: must be at most 1"),
        (
            ["--model.mta.kq_layers", "[0, 0]"],
            "model.mta.kq_layers [0, 0]: must name each layer once",
        ),
        (["--num_steps", ""], "num_steps '': expected int"),
        (
            ["--data.text.domains.code.wight", "2"],
            "unknown setting 'data.text.domains.code.wight'; did you mean "
            "'data.text.domains.code.weight'?",
        ),
        (["--data.text.domains.wiki.weight=2"], "data.text.domains.wiki.train is missing"),
        (
            ["--data.text.domains.code.weight", "-1"],
            "data.text.domains.code.weight -1.0: must be at least 0, and finite",
        ),
        (
            ["--data.text.domains", '{"a": {"tran": "x"}}'],
            "unknown setting 'data.text.domains.*.tran'; did you mean 'data.text.domains.*.train'?",
        ),
        (["--data.text.domains.code.train"], "data.text.domains.code.train: expected a value"),
        (
            ["--data.text.domains", "3"],
            "data.text.domains 3: expected sections by name, each with train, heldout, weight, "
            "field",
        ),
        (["--model", "missing.yaml"], "model missing.yaml: expected a YAML file of this section"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_be_right(capsys, arguments, message):
    assert complaint(capsys, *arguments) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nume_steps: 3", "unknown setting 'nume_steps'; did you mean 'num_steps'?"),
        (
            "model: {mta: {groupnorm: null}}",
            "unknown setting 'model.mta.groupnorm'; did you mean 'model.mta.group_norm'?",
        ),
        ("modle: {}", "unknown setting 'modle'; did you mean 'model'?"),
        ("data: {num_layers: 3}", "unknown setting 'data.num_layers'; did you mean 'model.num_"),
        ("data: {xyz: 3}", "unknown setting 'data.xyz'; data has source, batch_size, "),
        ("1: 2", "unknown setting '1'; --help lists the settings"),
        ("config: other.yaml", "unknown setting 'config'"),
        ("seed: 1\nnum_steps: 2\nseed: 3", "'seed' is there twice, again in line 3"),
        ("model: &a {mta: *a}", "unknown setting 'model.mta.mta'"),
        ("model: " + 5000 * "[", "not valid YAML"),
        ("seed: &a [*a]", "seed [[...]]: expected int"),
        ("{[1]: 2}", "not valid YAML"),
        ("model:", "model null: expected a section of settings"),
        ("run_dir: null", "run_dir null: expected str"),
        ("run_dir: ''", "run_dir '': must be the path of a folder"),
        ("model: 3", "model 3: expected a section of settings"),
        ("model: {mta: 7}", "model.mta 7: expected a section of settings"),
        ("seed: [1]", "seed [1]: expected int"),
        ("model: [", "not valid YAML"),
        ("data: {text: {domains: [a]}}", "data.text.domains ['a']: expected a section"),
        ("data: {text: {domains: {a: b}}}", "data.text.domains.a b: expected a section"),
        ("data: {text: {domains: {a: {weight: 1}}}}", "data.text.domains.a.train is missing"),
        (
            "data: {text: {domains: {a: {train: x, wight: 1}}}}",
            "unknown setting 'data.text.domains.a.wight'; did you mean "
            "'data.text.domains.a.weight'?",
        ),
        ("- 3", "expected settings by name"),
        ("", "expected settings by name"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_or_field(capsys, tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    assert message in complaint(capsys, "--config", str(path))
