import dataclasses

import pytest
import yaml

from mta_jax.command_line.plain import plain, to_yaml
from mta_jax.errors import ConfigError, UserError
from mta_jax.training.run_folder import CONFIG_FILE, locked, open_run_folder
from tests.training.tiny import toy_config


def test_a_new_folder_gets_the_config(tmp_path):
    folder = tmp_path / "a" / "b"
    assert open_run_folder(folder, toy_config()) is False
    assert yaml.safe_load((folder / CONFIG_FILE).read_text()) == plain(toy_config())


def test_the_same_run_may_continue_from_anywhere(tmp_path):
    open_run_folder(tmp_path, toy_config())
    moved = dataclasses.replace(toy_config(), run_dir="elsewhere")
    assert open_run_folder(tmp_path, moved) is True


def test_another_run_is_refused_by_the_field_that_differs(tmp_path):
    open_run_folder(tmp_path, toy_config())
    before = (tmp_path / CONFIG_FILE).read_bytes()
    model = dataclasses.replace(toy_config().model, num_layers=2)
    with pytest.raises(ConfigError, match=r"model\.num_layers is 1 there and 2 here"):
        open_run_folder(tmp_path, toy_config(model=model))
    assert (tmp_path / CONFIG_FILE).read_bytes() == before


def test_a_run_may_go_on_in_other_parts(tmp_path):
    open_run_folder(tmp_path, toy_config())
    changed = toy_config(
        accumulate=2,
        model=dataclasses.replace(toy_config().model, remat="full", scan_layers=True),
        loss=dataclasses.replace(toy_config().loss, tokens_at_once=8),
        checkpoint=dataclasses.replace(toy_config().checkpoint, keep=3),
    )
    assert open_run_folder(tmp_path, changed) is True


def test_a_run_from_before_there_was_a_setting_continues_with_its_default(tmp_path):
    settings = plain(toy_config())
    del settings["model"]["qkv_bias"]
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump(settings))
    assert open_run_folder(tmp_path, toy_config()) is True
    model = dataclasses.replace(toy_config().model, qkv_bias=True)
    with pytest.raises(ConfigError, match=r"model\.qkv_bias is False there and True here"):
        open_run_folder(tmp_path, toy_config(model=model))


def test_a_kill_before_the_config_was_complete_leaves_a_new_folder(tmp_path):
    (tmp_path / "config.yaml.tmp").write_text("model: {num_la")
    assert open_run_folder(tmp_path, toy_config()) is False
    assert open_run_folder(tmp_path, toy_config()) is True


def test_one_process_trains_in_a_folder(tmp_path):
    other = locked(tmp_path)
    with locked(tmp_path), pytest.raises(UserError, match="another process is training there"):
        other.__enter__()
    with locked(tmp_path):
        pass


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not empty and holds no config\.yaml"):
        open_run_folder(tmp_path, toy_config())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unreadable_config_is_named(tmp_path):
    (tmp_path / CONFIG_FILE).write_text("model: [")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        open_run_folder(tmp_path, toy_config())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run_dir .*file/run: cannot be written"):
        open_run_folder(tmp_path / "file" / "run", toy_config())


def test_the_saved_config_has_every_field():
    saved = yaml.safe_load(to_yaml(toy_config()))
    assert saved["model"]["mta"]["pre_kq_kernel_size"] == [2, 3]
    assert saved["data"]["block_search"]["sequence_length"] == 21


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=r"run_dir .*notes\.txt: is a file"):
        open_run_folder(tmp_path / "notes.txt", toy_config())
    assert (tmp_path / "notes.txt").read_text() == "keep me"
