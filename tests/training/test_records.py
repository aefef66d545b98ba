import json

from mta_jax.training.records import JsonLines, Records, read_rows


def test_rows_after_the_restart_are_dropped_and_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, after=0)
    for step in (1, 2, 3):
        lines.write({"step": step, "loss": 1 / step})
    lines.close()
    before = path.read_bytes()
    lines = JsonLines(path, after=2)
    lines.write({"step": 3, "loss": 1 / 3})
    lines.close()
    assert path.read_bytes() == before


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_rows(path) == [{"step": 1, "loss": 2.0}]
    JsonLines(path, after=5).close()
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n'


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_metrics_and_timing_go_to_their_own_files_and_to_tensorboard(tmp_path):
    with Records(tmp_path, after=0) as records:
        records.metrics(1, {"loss": 2.5, "sample": "text"})
        records.timing(1, {"seconds": 0.1})
        records.sync()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 2.5
    assert json.loads((tmp_path / "timing.jsonl").read_text()) == {"step": 1, "seconds": 0.1}
    assert any((tmp_path / "tensorboard").iterdir())
