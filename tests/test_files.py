import os

import pytest

from mta_jax.errors import ConfigError, UserError
from mta_jax.files import check_new_folder, new_folder


def write(folder):
    with new_folder(folder, "output") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("text")
        (temporary / "other").write_text("text")


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


ALL = ["inner", "inner/file", "other"]


def test_a_new_folder_is_there_when_all_is_written(tmp_path):
    write(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == ALL
    assert names(tmp_path / "a")[0] == "b"


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "target") == ALL
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


def test_the_working_folder_stays_the_same_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.stat(tmp_path).st_ino
    write(type(tmp_path)("."))
    assert os.stat(tmp_path).st_ino == os.stat(".").st_ino == before
    assert names(tmp_path) == ALL


@pytest.mark.parametrize("folder", ["new", "some/way/down", "empty", "link"])
def test_what_fails_leaves_everything_as_it_was(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")

    def failing():
        with new_folder(tmp_path / folder, "output") as temporary:
            (temporary / "file").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=f"{folder}: cannot be written .No space left on device"):
        failing()
    assert names(tmp_path) == ["empty", "link"]


def test_a_folder_above_that_was_there_stays(tmp_path):
    (tmp_path / "above").mkdir()
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "above" / "a" / "b", "output"):
        raise ZeroDivisionError
    assert names(tmp_path) == ["above"]


def test_what_is_in_the_way_is_said_beforehand(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    for name in ("file", "broken"):
        with pytest.raises(ConfigError, match=f"{name}: exists already; choose a new or empty"):
            check_new_folder(tmp_path / name, "output")
    with pytest.raises(ConfigError, match=r"new: .*file is no folder"):
        check_new_folder(tmp_path / "file" / "new", "output")
    with pytest.raises(ConfigError, match="exists already"):
        check_new_folder(tmp_path, "output")
