import pytest

from mta_jax.data.sources import Document, standard_library


def names(documents):
    return [document.name for document in documents]


def test_docs_are_the_topics_of_help_by_name():
    documents = standard_library.docs()
    assert names(documents) == sorted(names(documents))
    lambdas = next(document for document in documents if document.name == "lambda")
    assert "anonymous" in lambdas.content


@pytest.fixture
def library(tmp_path, monkeypatch):
    paths = {"stdlib": str(tmp_path)}
    monkeypatch.setattr(standard_library.sysconfig, "get_paths", lambda: paths)
    return tmp_path


def test_code_is_every_source_without_tests_and_add_ons(library):
    for name in (
        "b.py",
        "a.py",
        "json/decoder.py",
        "test/test_json.py",
        "json/tests/case.py",
        "idlelib/idle_test/case.py",
        "site-packages/numpy/core.py",
        "__pycache__/cached.py",
        "notes.txt",
    ):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(f"# {name}")
    documents = standard_library.code()
    assert names(documents) == ["a.py", "b.py", "json/decoder.py"]
    assert documents[2] == Document("json/decoder.py", "# json/decoder.py")


def test_sources_that_are_no_utf8_are_read_all_the_same(library):
    (library / "latin.py").write_bytes(b"# caf\xe9")
    assert standard_library.code()[0].content == "# caf\ufffd"


def test_python_without_sources_is_said(library):
    with pytest.raises(FileNotFoundError, match=r"no Python sources in .*'python:code' needs them"):
        standard_library.code()
