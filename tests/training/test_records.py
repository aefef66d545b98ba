import json

import pytest

from mta_jax.errors import UserError
from mta_jax.training.records import JsonLines, Records, check_records, read_rows


def write(path, steps, size=0):
    """Returns the size of the file after the rows of these steps."""
    lines = JsonLines(path, size=size)
    for step in steps:
        lines.write({"step": step, "text": "ß" * step})
    lines.sync()
    size = lines.size
    lines.close()
    return size


def test_what_came_after_the_checkpoint_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    size = write(path, [1, 2])
    assert size == path.stat().st_size
    assert write(path, [3], size) == path.stat().st_size
    before = path.read_bytes()
    path.write_bytes(before + b'{"step": 4, "lo')
    write(path, [3], size)
    assert path.read_bytes() == before
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]


def test_a_new_run_drops_what_was_there(tmp_path):
    write(tmp_path / "metrics.jsonl", [1, 2])
    write(tmp_path / "metrics.jsonl", [1])
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], r"has \d+ bytes, and had \d+ when the checkpoint"),
        (lambda content: b"", r"has 4 bytes, and had"),
        (lambda content: content.replace(b"{", b"#", 1), r"line 1: expected a JSON object"),
        (lambda content: content.replace(b"step", b"stop", 2), r"line 1: expected a JSON object"),
        (lambda content: b"\xff" * len(content), r"line 1: expected a JSON object"),
        (lambda content: b"3" * len(content), r"line 1: expected a JSON object"),
    ],
)
@pytest.mark.parametrize("file", ["metrics.jsonl", "timing.jsonl"])
def test_a_file_that_was_changed_is_refused_and_left_alone(tmp_path, file, damage, message):
    sizes = {name: write(tmp_path / name, [1, 2]) for name in ("metrics.jsonl", "timing.jsonl")}
    path = tmp_path / file
    path.write_bytes(damage(path.read_bytes()))
    contents = {path: path.read_bytes() + b"more" for path in tmp_path.iterdir()}
    for path, content in contents.items():
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Records(tmp_path, after=2, sizes=sizes)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_a_file_that_was_deleted_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 0 bytes, and had 30"):
        check_records(tmp_path / "metrics.jsonl", 30)


def test_metrics_and_timing_go_to_their_own_files_and_to_tensorboard(tmp_path):
    with Records(tmp_path) as records:
        records.metrics(1, {"loss": 2.5, "sample": "text"})
        records.timing(1, {"seconds": 0.1})
        sizes = records.sync()
    assert sizes == {path.name: path.stat().st_size for path in tmp_path.glob("*.jsonl")}
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 2.5
    assert json.loads((tmp_path / "timing.jsonl").read_text()) == {"step": 1, "seconds": 0.1}
    assert any((tmp_path / "tensorboard").iterdir())
