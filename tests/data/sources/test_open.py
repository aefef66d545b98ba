import gzip
import json
import sys

import pytest

from mta_jax.data.sources import Document, IndexedDocuments, Skips, open_documents
from mta_jax.errors import ConfigError, UserError

pyarrow = pytest.importorskip("pyarrow")

TEXTS = ["one", "zwei ü", "tres\nlines", "four"]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)


def opened(*locations, skips=None, field="text"):
    return open_documents(
        [str(location) for location in locations],
        field=field,
        tokenizer=("byte", 258),
        setting="data.text.domains.a.train",
        skips=skips or Skips("a", 0.01),
    )


def texts(source):
    """All texts of a source, in its order."""
    if isinstance(source, IndexedDocuments):
        found = [source[index] for index in range(len(source))]
    else:
        found = [
            document for part in range(len(source.parts)) for _, document in source.read(part, 0)
        ]
    return [document.content for document in found if document is not None]


@pytest.fixture
def folder(tmp_path):
    import pyarrow.parquet

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    (tmp_path / "lines.jsonl").write_text(LINES)
    with gzip.open(tmp_path / "lines.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(LINES)
    (tmp_path / "lines.jsonl.zst").write_bytes(zstd.compress(LINES.encode()))
    table = pyarrow.table({"text": TEXTS, "url": TEXTS[::-1]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=3)
    for name, suffix in (("texts", ""), ("packed", ".gz")):
        (tmp_path / name).mkdir()
        for index, text in enumerate(TEXTS):
            content = gzip.compress(text.encode()) if suffix else text.encode()
            (tmp_path / name / f"{index}.txt{suffix}").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("location", "indexed"),
    [
        ("lines.jsonl", True),
        ("lines.jsonl.gz", False),
        ("lines.jsonl.zst", False),
        ("rows.parquet", False),
        ("texts", True),
        ("texts/*.txt", True),
        ("packed", True),
        ("**/[0-3].txt.gz", True),
    ],
)
def test_every_format_gives_the_same_documents(folder, location, indexed):
    skips = Skips("a", 0.0)
    source = opened(folder / location, skips=skips)
    assert isinstance(source, IndexedDocuments) == indexed
    assert texts(source) == TEXTS
    assert (skips.num_read, skips.num_skipped) == (4, 0)


@pytest.mark.parametrize("name", ["lines.jsonl.gz", "lines.jsonl.zst", "rows.parquet"])
def test_a_stream_continues_at_any_row(folder, name):
    source = opened(folder / name)
    for part in range(len(source.parts)):
        rows = list(source.read(part, 0))
        for start in range(len(rows) + 1):
            assert list(source.read(part, start)) == rows[start:]


def test_hugging_face_streams_by_shard_and_row(folder):
    pytest.importorskip("datasets")
    for name in ("b.jsonl", "c.jsonl"):
        (folder / name).write_text(LINES.replace("one", name))
    source = opened(f"hf:json?data_files={folder}/[bc].jsonl")
    assert len(source.parts) == 2
    assert sorted(texts(source)) == sorted([*TEXTS[1:] * 2, "b.jsonl", "c.jsonl"])
    rows = list(source.read(1, 0))
    assert list(source.read(1, 2)) == rows[2:]


def test_text_may_be_in_another_field(folder):
    assert texts(opened(folder / "rows.parquet", field="url")) == TEXTS[::-1]


def test_lines_are_named_by_file_and_number(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"text": "second"}\n\n  \n{"text": "fifth"}')
    source = opened(tmp_path / "a.jsonl")
    assert [source[i] for i in range(len(source))] == [
        Document(f"{tmp_path}/a.jsonl:2", "second"),
        Document(f"{tmp_path}/a.jsonl:5", "fifth"),
    ]


def test_formats_may_be_joined(folder):
    assert texts(opened(folder / "texts", folder / "lines.jsonl")) == TEXTS * 2
    joined = opened(folder / "lines.jsonl.gz", folder / "rows.parquet", folder / "lines.jsonl")
    assert sorted(texts(joined)) == sorted(TEXTS * 3)


@pytest.mark.parametrize(
    ("locations", "message"),
    [
        (["nowhere/*.txt"], "no such file, and as a glob it matches nothing"),
        (["empty"], "the folder has no file that ends in .txt, .md, .jsonl"),
        (["odd.pdf"], "odd.pdf ends in none of .txt"),
        (["lines.jsonl", "lines.*l"], "lines.jsonl twice"),
        (["python:cod"], "python:cod: Python itself has python:code, python:docs, "),
        (["hf:"], "expected hf:NAME"),
        (["hf:json?data_files=nowhere.jsonl"], "cannot be opened ("),
    ],
)
def test_a_location_that_names_nothing_is_an_error(folder, monkeypatch, locations, message):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "odd.pdf").write_text("x")
    with pytest.raises(ConfigError) as error:
        opened(*locations)
    assert message in str(error.value)
    assert str(error.value).startswith("data.text.domains.a.train ")
    assert "\n" not in str(error.value)


def test_streams_do_not_join_what_is_indexed(folder):
    with pytest.raises(ConfigError, match="make them domains of their own"):
        opened(folder / "rows.parquet", "python:docs")


def test_a_missing_column_is_named_with_those_there(folder):
    with pytest.raises(UserError, match=r"rows.parquet has no column 'body'; it has text, url"):
        opened(folder / "rows.parquet", field="body")


def test_unreadable_documents_are_counted_and_reported_with_file_and_line(tmp_path, caplog):
    good = '{"text": "fine"}\n'
    bad = ["{", "[1]", '{"txt": 1}', '{"text": 3}', '{"text": ""}', '{"text": "\\ud800"}']
    content = good * 300 + "\n".join(bad) + "\n"
    (tmp_path / "a.jsonl").write_bytes(content.encode() + b'{"text": "\xff"}\n')
    skips = Skips("a", 0.5)
    assert len(texts(opened(tmp_path / "a.jsonl", skips=skips))) == 301
    assert (skips.num_read, skips.num_skipped) == (301, 6)
    reasons = [record.getMessage() for record in caplog.records]
    assert f"a: {tmp_path}/a.jsonl:301: no JSON" in reasons[0]
    assert "expected an object with the field 'text'" in reasons[1]
    assert "no field 'text' among 'txt'" in reasons[2]
    assert "expected text, found int" in reasons[3]
    assert "empty" in reasons[4]
    assert "jsonl:307: no UTF-8 at byte 10 of the line" in reasons[5]


def test_too_many_unreadable_documents_stop(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 98 + "{\n" * 5)
    with pytest.raises(UserError, match=r"domain a: 2 of 100 .*max_skipped 0.01 .*jsonl:100"):
        texts(opened(tmp_path / "a.jsonl"))


def test_a_file_that_is_no_utf8_is_skipped(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert texts(opened(tmp_path / "a.txt")) == []
    assert "a.txt: no UTF-8 at byte 3" in caplog.text


@pytest.mark.parametrize("name", ["lines.jsonl.gz", "lines.jsonl.zst", "rows.parquet"])
def test_a_damaged_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        texts(opened(folder / name))


def test_summaries_tell_when_files_change(folder):
    for name in ("lines.jsonl", "lines.jsonl.gz", "rows.parquet", "texts"):
        before = opened(folder / name).summary()
        assert opened(folder / name).summary() == before
    (folder / "texts" / "0.txt").write_text("longer than before")
    after = opened(folder / "texts").summary()
    assert after["digest"] != before["digest"]
    assert (after["documents"], after["files"]) == (4, 4)
    (folder / "texts" / "1.txt").unlink()
    assert opened(folder / "texts").summary()["documents"] == 3


def test_records_without_a_manifest_are_text(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for text in TEXTS:
        writer.write(text.encode())
    writer.close()
    source = opened(tmp_path / "*.array_record")
    assert texts(source) == TEXTS
