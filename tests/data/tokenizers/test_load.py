import re
import sys

import pytest

from mta_jax.data.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    load_tokenizer,
)


def test_byte_is_a_name():
    assert isinstance(load_tokenizer("byte"), ByteTokenizer)
    with pytest.raises(ValueError, match=r"data\.text\.tokenizer byte: bos_token and eos_token"):
        load_tokenizer("byte", eos_token="</s>")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("byte_level.json", HuggingFaceTokenizer),
        ("sentence_piece.model", SentencePieceTokenizer),
        ("ranks.model", TiktokenTokenizer),
    ],
)
def test_files_are_told_apart_by_what_is_in_them(files, name, kind):
    assert isinstance(load_tokenizer(str(files[name])), kind)


def test_missing_file_is_said_with_what_is_possible(tmp_path):
    message = "data.text.tokenizer gpt2: no such file; must be 'byte' or the path of a"
    with pytest.raises(FileNotFoundError, match=message):
        load_tokenizer("gpt2")
    message = f"data.text.tokenizer {tmp_path}: a folder; name the file in it"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("byte_level.json", "tokenizers"),
        ("sentence_piece.model", "sentencepiece"),
        ("ranks.model", "tiktoken"),
    ],
)
def test_missing_library_is_said_with_the_command_that_installs_it(
    files, monkeypatch, name, library
):
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"^data\.text\.tokenizer .*{name}: needs the library {library} .*: " + re.escape(
        "pip install 'mta-jax[data]'"
    )
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(files[name]))
    assert load_tokenizer("byte").vocab_size == 258


def test_file_that_cannot_be_read_is_said(files, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ValueError, match=r"byte_level\.json: cannot be read \(Permission denied\)"):
        load_tokenizer(str(files["byte_level.json"]))
