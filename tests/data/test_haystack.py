import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.data.haystack import PYTHON_PROSE, load_haystack, sentences_of
from mta_jax.errors import ConfigError


def test_sentences_end_where_they_end():
    text = 'One.  Two\nlines! "Three?" Four, e.g. five'
    assert sentences_of(text) == ["One.", "Two lines!", '"Three?"', "Four, e.g.", "five"]


def test_long_sentences_are_cut_between_words():
    found = sentences_of("word " * 200 + "x" * 1000)
    assert all(len(sentence) <= 400 for sentence in found)
    assert "".join(found).replace(" ", "") == "word" * 200 + "x" * 1000


def test_text_files_in_their_order(tmp_path):
    (tmp_path / "b.txt").write_text("Second file.")
    (tmp_path / "a.txt").write_text("First. Of two.")
    found = load_haystack([str(tmp_path)], setting="haystack")
    assert found.sentences == ["First.", "Of two.", "Second file."]
    assert found.token_counts(ByteTokenizer()).tolist() == [7, 8, 13]
    (tmp_path / "a.txt").write_text("First. Of three.")
    assert load_haystack([str(tmp_path)], setting="haystack").digest != found.digest


def test_the_prose_of_python_is_long_enough_for_long_contexts():
    found = load_haystack(PYTHON_PROSE, setting="haystack")
    assert sum(map(len, found.sentences)) > 128 * 1024 * 5


def test_a_haystack_of_nothing_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" ")
    with pytest.raises(ConfigError, match=r"haystack .*a\.txt: holds no text"):
        load_haystack([str(tmp_path / "a.txt")], setting="haystack")
    with pytest.raises(ConfigError, match="haystack nowhere"):
        load_haystack(["nowhere"], setting="haystack")
