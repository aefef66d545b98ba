import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mta_jax.data import DataConfig, DomainConfig, TextConfig, load_data
from mta_jax.data.domains import open_domains
from mta_jax.data.sources import Document
from mta_jax.data.sources import open as open_module
from mta_jax.data.tokenizers import load_tokenizer
from mta_jax.errors import ConfigError, UserError
from mta_jax.prepare import worker
from mta_jax.prepare.__main__ import main
from mta_jax.prepare.folder import begun

pyarrow = pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]
WORDS = ["stone", "river", "über", "light", "42", "\n", "north"]


def text_of(number):
    generator = np.random.default_rng(number)
    return " ".join(generator.choice(WORDS, size=5 + number % 60))


TEXTS = [text_of(number) for number in range(300)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)


@pytest.fixture(autouse=True)
def _short_library(monkeypatch):
    documents = [Document(f"topic {index}", text) for index, text in enumerate(TEXTS)]
    monkeypatch.setitem(open_module._PYTHON, "python:docs", lambda: documents)


@pytest.fixture
def inputs(tmp_path):
    import pyarrow.parquet

    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "lines.jsonl").write_text(LINES)
    with gzip.open(folder / "lines.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(LINES)
    table = pyarrow.table({"text": TEXTS})
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=7)
    return folder


def flags(**settings):
    return [
        part
        for name, value in ({"workers": 1, "shard_documents": 40} | settings).items()
        for part in (f"--{name.replace('__', '.')}", str(value))
    ]


def prepare(**settings):
    """Runs the command in this process; returns its exit code."""
    return main(flags(**settings))


def manifest_of(folder):
    return json.loads((folder / "prepared.json").read_text())


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def config_for(train, tokenizer="byte", heldout_fraction=0.0):
    domains = {"a": DomainConfig(train=str(train))}
    text = TextConfig(
        domains=domains,
        tokenizer=str(tokenizer),
        sequence_length=32,
        heldout_fraction=heldout_fraction,
    )
    return DataConfig(source="text", batch_size=4, text=text)


def batches(config, count=6):
    data = iter(load_data(config, seed=3, held_out_rows=4).train)
    return [{name: array.tolist() for name, array in next(data).items()} for _ in range(count)]


def documents_of(folder, tokenizer="byte"):
    config = config_for(folder, tokenizer).text
    (domain,) = open_domains(config, load_tokenizer(str(tokenizer)))
    return [domain.train[index].content for index in range(len(domain.train))]


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.gz", "rows.parquet", "python:docs"])
@pytest.mark.parametrize("is_learned", [False, True], ids=["byte", "bpe"])
def test_the_tokens_are_those_of_the_text(inputs, tmp_path, capsys, name, is_learned):
    location = name if ":" in name else inputs / name
    output, tokenizer, learned = tmp_path / "out", "byte", {}
    if is_learned:
        tokenizer, learned = output / "tokenizer.json", {"train_tokenizer__vocab_size": 300}
    assert prepare(input=location, output=output, **learned) == 0
    expected = [load_tokenizer(str(tokenizer)).encode(text).tolist() for text in TEXTS]
    assert [tokens.tolist() for tokens in documents_of(output, tokenizer)] == expected
    manifest = manifest_of(output)
    assert manifest["dtype"] == "uint16"
    assert manifest["totals"] == {
        "documents": 300,
        "tokens": sum(map(len, expected)),
        "bytes": sum(len(text.encode()) for text in TEXTS),
        "skipped": 0,
        # Row groups of 7 make units of 35.
        "shards": 9 if name == "rows.parquet" else 8,
    }
    assert all(
        shard["size"] == (output / shard["file"]).stat().st_size for shard in manifest["shards"]
    )
    assert f"train: {output}" in (printed := capsys.readouterr().out)
    assert f"tokenizer: {tokenizer}" in printed
    assert "300" in printed


def test_training_reads_it_as_it_reads_the_text(inputs, tmp_path):
    output = tmp_path / "out"
    assert prepare(input=inputs / "lines.jsonl", output=output) == 0
    for train in (output, f"{output}/*.array_record"):
        assert batches(config_for(train)) == batches(config_for(inputs / "lines.jsonl"))


def test_several_locations_and_a_file_of_settings(inputs, tmp_path):
    (inputs / "a.txt").write_text("a text")
    config = tmp_path / "prepare.yaml"
    config.write_text(
        f"input: [{inputs}/a.txt, {inputs}/lines.jsonl]\noutput: {tmp_path}/out\nworkers: 1\n"
    )
    assert main(["--config", str(config)]) == 0
    documents = documents_of(tmp_path / "out")
    assert bytes(documents[0].tolist()) == b"a text"
    assert len(documents) == 301


def test_hugging_face(inputs, tmp_path):
    pytest.importorskip("datasets")
    location = f"hf:json?data_files={inputs}/lines.jsonl"
    assert prepare(input=location, output=tmp_path / "out") == 0
    assert [bytes(tokens.tolist()).decode() for tokens in documents_of(tmp_path / "out")] == TEXTS


def test_any_number_of_workers_gives_the_same_bytes(inputs, tmp_path):
    for workers in (1, 2):
        assert prepare(input=inputs, output=tmp_path / str(workers), workers=workers) == 0
    assert manifest_of(tmp_path / "1")["totals"]["documents"] == 900
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_small_parts_of_unknown_size_share_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("mta_jax.prepare.units._MOST_UNITS", 3)
    for index in range(10):
        with gzip.open(tmp_path / f"{index}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(LINES[: LINES.index("\n") + 1])
    assert prepare(input=tmp_path / "*.gz", output=tmp_path / "out") == 0
    assert [shard["documents"] for shard in manifest_of(tmp_path / "out")["shards"]] == [4, 4, 2]


class Process:
    """The command as a process of its own, with more to do than it gets time for."""

    def __init__(self, folder, **settings):
        path = folder / "many.jsonl"
        if not path.exists():
            path.write_text(LINES * 6)
        self.output = folder / "killed"
        self.settings = {"input": path, "shard_documents": 30} | settings
        command = [sys.executable, "-W", "error::UserWarning", "-m", "mta_jax.prepare"]
        self.process = subprocess.Popen(
            [*command, *flags(**self.settings, output=self.output)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def shards_done(self):
        noted = (self.output / ".preparing").glob("0*.json")
        return [self.output / json.loads(path.read_text())["file"] for path in noted]

    def num_done(self):
        return len(list((self.output / ".preparing").glob("0*.json")))

    def wait_for_more(self):
        before = self.num_done()
        deadline = time.monotonic() + 60
        while self.num_done() < before + 3 and time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.001)

    def finish(self, **settings):
        """Gives the same command in this process."""
        return prepare(**self.settings | settings, output=self.output)


def children(pid):
    """Processes with this parent that do the work."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if b"multiprocessing-fork" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
@pytest.mark.once
def test_killed_it_continues_to_the_same_bytes(tmp_path, capsys):
    interrupted = Process(tmp_path, workers=2)
    interrupted.wait_for_more()
    os.killpg(interrupted.process.pid, signal.SIGINT)
    _, errors = interrupted.process.communicate(timeout=60)
    assert interrupted.process.returncode == 130, errors
    assert errors == "mta_jax.prepare: stopped; the same command continues\n"

    killed = Process(tmp_path, workers=2)
    killed.wait_for_more()
    workers = children(killed.process.pid)
    killed.process.kill()
    killed.process.communicate(timeout=60)
    assert killed.num_done() < 60
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives the command"
        time.sleep(0.05)

    # Neither is taken for text.
    for train in (killed.output, f"{killed.output}/*.array_record"):
        with pytest.raises(UserError, match="prepare has not finished it; give the same command"):
            load_data(config_for(train), seed=0, held_out_rows=4)
    # A shard that was written and not noted is written again.
    shards = {path: path.stat().st_mtime_ns for path in killed.shards_done()}
    assert shards
    assert killed.finish(workers=1) == 0
    assert "documents are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert prepare(**killed.settings | {"workers": 1}, output=tmp_path / "whole") == 0
    assert contents(killed.output) == contents(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")
def test_a_worker_that_is_killed_is_told(tmp_path):
    killed = Process(tmp_path, workers=2)
    killed.wait_for_more()
    os.kill(children(killed.process.pid)[0], signal.SIGKILL)
    _, errors = killed.process.communicate(timeout=60)
    assert killed.process.returncode == 1
    assert "error: a worker was ended from outside, perhaps for want of memory" in errors
    assert "Traceback" not in errors


def test_a_stream_continues_within_a_part(inputs, tmp_path):
    settings = {"input": inputs / "lines.jsonl.gz"}
    assert prepare(**settings, output=tmp_path / "whole") == 0
    output = tmp_path / "out"
    written, write_piece = [], worker.write_piece
    with pytest.MonkeyPatch.context() as patch:

        def write_three(folder, piece):
            if len(written) == 3:
                raise KeyboardInterrupt
            written.append(piece)
            write_piece(folder, piece)

        patch.setattr(worker, "write_piece", write_three)
        assert prepare(**settings, output=output) == 130
    assert [piece.following for piece in written] == [(0, 40), (0, 80), (0, 120)]
    assert prepare(**settings, output=output) == 0
    assert contents(output) == contents(tmp_path / "whole")


def test_a_full_disk_is_one_line_and_no_end(inputs, tmp_path, capsys):
    settings = {"input": inputs / "lines.jsonl", "shard_documents": 200}
    assert prepare(**settings, output=tmp_path / "whole") == 0
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        assert prepare(**settings, output=tmp_path / "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written (write() failed: File too large" in line
    assert prepare(**settings, output=tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_learned_tokenizer_is_learned_once(inputs, tmp_path, capsys):
    settings = {
        "input": inputs / "lines.jsonl",
        "output": tmp_path / "out",
        "train_tokenizer__vocab_size": 300,
        "train_tokenizer__sample_documents": 50,
    }
    assert prepare(**settings) == 0
    assert "learning 300 tokens from up to 50 documents" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    assert prepare(**settings) == 0
    assert "is complete; nothing is left to do" in (printed := capsys.readouterr().out)
    assert "learning" not in printed
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_documents": 41}, "shard_documents is 40 there and 41 here"),
        ({"train_tokenizer__vocab_size": 300}, "train_tokenizer.vocab_size is null there"),
        ({"input": "python:docs"}, "input is ['"),
        ({"field": "body"}, "field is text there and body here"),
        ({}, "the input's bytes is"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_other_settings_or_text_are_refused_by_name(
    inputs, tmp_path, capsys, change, message, is_finished
):
    output = tmp_path / "out"
    settings = {"input": inputs / "lines.jsonl", "output": output}
    if is_finished:
        assert prepare(**settings) == 0
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mta_jax.prepare.folder.write_manifest", _interrupt)
            assert prepare(**settings) == 130
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    if not change:
        (inputs / "lines.jsonl").write_text(LINES + LINES)
    elif not is_finished and "train_tokenizer__vocab_size" in change:
        before.pop(".preparing")
    assert prepare(**settings | change) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert f"output {output} holds text prepared otherwise: " in line
    assert message in line
    after = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert before.items() <= after.items()


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_another_tokenizer_is_refused(inputs, tmp_path, capsys):
    settings = {"input": inputs / "lines.jsonl", "output": tmp_path / "out"}
    assert prepare(**settings) == 0
    assert (
        prepare(**settings | {"output": tmp_path / "learned", "train_tokenizer__vocab_size": 300})
        == 0
    )
    tokenizer = tmp_path / "learned" / "tokenizer.json"
    capsys.readouterr()
    assert prepare(**settings, tokenizer=tokenizer) == 2
    assert "tokenizer is byte there and tokenizer.json (" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="its tokens were made with the tokenizer 'byte'"):
        load_data(config_for(tmp_path / "out", tokenizer), seed=0, held_out_rows=4)


def bad_lines(folder, *, good, bad):
    """Files of which the first is fine."""
    folder.mkdir()
    fine = '{"text": "fine"}\n'
    (folder / "a.jsonl").write_text(fine * good)
    (folder / "b.jsonl").write_text(fine * 3 + "{\n" * bad)
    return folder


def test_unreadable_documents_are_counted(tmp_path, capsys):
    folder = bad_lines(tmp_path / "in", good=1_000, bad=5)
    assert prepare(input=folder, output=tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for line in range(4, 9):
        assert f"{folder}/b.jsonl:{line}: no JSON (Expecting" in printed
    manifest = manifest_of(tmp_path / "out")
    assert manifest["totals"]["documents"] == 1_003
    assert manifest["totals"]["skipped"] == 5
    assert len(manifest["skipped"]) == 5


@pytest.mark.parametrize("compressed", [False, True])
def test_too_many_unreadable_documents_stop(tmp_path, capsys, compressed):
    folder = bad_lines(tmp_path / "in", good=300, bad=5)
    if compressed:
        for name in ("a.jsonl", "b.jsonl"):
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    settings = {"input": folder, "output": tmp_path / "out"}
    assert prepare(**settings) == 1
    worst = f"{folder}/b.jsonl{'.gz' if compressed else ''}"
    error = capsys.readouterr().err
    assert "of 308 documents cannot be read, more than max_skipped 0.01 allows" in error
    assert f"{worst} has" in error
    assert f"such as {worst}:" in error
    assert not (tmp_path / "out" / "prepared.json").exists()
    # Bearing more is no other preparation.
    assert prepare(**settings, max_skipped=0.1) == 0


def test_a_wrong_field_stops_early(tmp_path, capsys):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(LINES * 10)
    settings = {"input": tmp_path / "a.jsonl.gz", "output": tmp_path / "out", "field": "body"}
    assert prepare(**settings, shard_documents=1_000) == 1
    error = capsys.readouterr().err
    assert "input: at least 100 of 100 documents cannot be read" in error
    assert "such as" in error
    assert "no field 'body' among 'text'" in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_documents": 0}, "shard_documents 0: must be at least 1"),
        ({"workers": 0}, "workers 0: must be at least 1"),
        ({"max_skipped": 2}, "max_skipped 2.0: must be in [0, 1]"),
        ({"input": "[]"}, "name at least one location"),
        ({"input": "nowhere"}, "input nowhere: no such file"),
        ({"tokenizer": "nowhere.json"}, "error: tokenizer nowhere.json: no such file"),
        ({"train_tokenizer__vocab_size": 100}, "train_tokenizer.vocab_size 100: must be at least"),
        ({"train_tokenizer__vocab_size": 300, "tokenizer": "a.json"}, "set one of the two"),
        ({"train_tokenizer__vocab_size": 300, "bos_token": "<s>"}, "bos_token <s>: a tokenizer"),
        ({"fields": "a"}, "unknown setting 'fields'; did you mean 'field'?"),
        ({"output": "inputs/lines.jsonl"}, "is a file; name a new or empty folder"),
        ({"output": "inputs"}, "output inputs: is not empty, and nothing was prepared in it"),
        ({"input": "inputs", "output": "inputs/out"}, "lies in the input inputs"),
    ],
)
def test_a_mistake_is_one_line(inputs, monkeypatch, capsys, settings, message):
    monkeypatch.chdir(inputs.parent)
    try:
        code = prepare(**{"input": "inputs/lines.jsonl", "output": "out"} | settings)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mta_jax.prepare: error: ")
    assert message in line


def test_what_was_prepared_is_no_input(inputs, tmp_path, capsys):
    assert prepare(input=inputs / "lines.jsonl", output=tmp_path / "out") == 0
    assert prepare(input=tmp_path / "out", output=tmp_path / "again") == 2
    assert "holds tokens that were prepared; name the text" in capsys.readouterr().err


def test_two_at_once_are_one_too_many(inputs, tmp_path, capsys):
    with begun(tmp_path / "out"):
        assert prepare(input=inputs / "lines.jsonl", output=tmp_path / "out") == 1
    assert "another process is preparing there" in capsys.readouterr().err


def test_nothing_in_it_is_no_preparation(tmp_path, capsys):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n")
    assert prepare(input=tmp_path / "a.jsonl.gz", output=tmp_path / "out") == 1
    assert "holds no document; it is empty" in capsys.readouterr().err


def test_a_large_vocabulary_takes_four_bytes(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("mta_jax.prepare.preparation._LARGEST_UINT16", 100)
    assert prepare(input=inputs / "lines.jsonl", output=tmp_path / "out") == 0
    assert manifest_of(tmp_path / "out")["dtype"] == "uint32"
    assert [bytes(tokens.tolist()).decode() for tokens in documents_of(tmp_path / "out")] == TEXTS
