import itertools

import pytest

from mta_jax.data import standard_library
from mta_jax.data.standard_library import Document, split_off

DOCUMENTS = [Document("docs", f"topic {index}", f"text {index}") for index in range(40)]


def names(documents):
    return [document.name for document in documents]


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.03, 2), (0.25, 10), (0.5, 20)])
def test_every_document_is_in_one_part_in_its_order(fraction, count):
    train, held_out = split_off(DOCUMENTS, fraction)
    assert len(held_out) == count
    assert train == [document for document in DOCUMENTS if document not in held_out]
    assert held_out == [document for document in DOCUMENTS if document not in train]


def test_at_least_one_document_is_held_out():
    train, held_out = split_off(DOCUMENTS[:2], 0.01)
    assert (len(train), len(held_out)) == (1, 1)


def test_choice_depends_on_names_only():
    _, held_out = split_off(DOCUMENTS, 0.2)
    _, reversed_order = split_off(DOCUMENTS[::-1], 0.2)
    assert names(reversed_order) == names(held_out)[::-1]
    edited = [Document("docs", name, "edited") for name in names(DOCUMENTS)]
    assert names(split_off(edited, 0.2)[1]) == names(held_out)
    # Not simply the first, the last or every fifth of them.
    places = [names(DOCUMENTS).index(name) for name in names(held_out)]
    assert len({later - earlier for earlier, later in itertools.pairwise(places)}) > 1


def test_larger_part_contains_the_smaller():
    small, large = (set(names(split_off(DOCUMENTS, fraction)[1])) for fraction in (0.1, 0.3))
    assert small < large


def test_docs_are_the_topics_of_help_by_name():
    documents = standard_library.documents("docs")
    assert names(documents) == sorted(names(documents))
    assert {document.domain for document in documents} == {"docs"}
    lambdas = next(document for document in documents if document.name == "lambda")
    assert "anonymous" in lambdas.text


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
    documents = standard_library.documents("code")
    assert names(documents) == ["a.py", "b.py", "json/decoder.py"]
    assert documents[2] == Document("code", "json/decoder.py", "# json/decoder.py")


def test_sources_that_are_no_utf8_are_read_all_the_same(library):
    (library / "latin.py").write_bytes(b"# caf\xe9")
    assert standard_library.documents("code")[0].text == "# caf\ufffd"


def test_python_without_sources_is_said(library):
    with pytest.raises(FileNotFoundError, match=r"no Python sources in .*'code' needs them"):
        standard_library.documents("code")
