import itertools
import sys

import pytest

from mta_jax.data.tokenizers import load_tokenizer, train_bpe

from . import makers


def test_same_texts_give_the_same_file(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        train_bpe(iter(makers.TEXTS), 300, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_vocabulary_has_the_size_asked_for_and_finds_what_is_frequent(tmp_path):
    train_bpe(makers.TEXTS, 320, tmp_path / "a.json")
    tokenizer = load_tokenizer(str(tmp_path / "a.json"))
    assert tokenizer.vocab_size == 320
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert len(tokenizer.encode(" the")) == 1
    assert len(tokenizer.encode(makers.TEXTS[0])) < 0.6 * len(makers.TEXTS[0].encode())


@pytest.mark.parametrize("texts", [[], [""], ["\ud800", "\0"], ["<|bos|><|eos|>"] * 9])
def test_any_texts_will_do(tmp_path, texts):
    path = tmp_path / "new" / "a.json"
    train_bpe(texts, 258, path)
    tokenizer = load_tokenizer(str(path))
    assert tokenizer.vocab_size == 258
    for text in ("<|bos|> Größe\0", "".join(map(chr, itertools.chain(range(300), [0x1F642])))):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_too_small_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^vocab_size 257: must be at least 258"):
        train_bpe(makers.TEXTS, 257, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def test_failure_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("before")

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        train_bpe(makers.TEXTS, 300, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "before"


def test_missing_library_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"^train_bpe: needs the library tokenizers"):
        train_bpe(makers.TEXTS, 300, tmp_path / "a.json")
