import re

import pytest

from mta_jax.data.tokenizers import load_tokenizer

from . import makers


def made(path, arguments=None, **settings):
    makers.sentence_piece(path, **settings)
    return load_tokenizer(str(path), **arguments or {})


def test_begin_and_end_are_the_models(tmp_path):
    tokenizer = made(tmp_path / "a.model", bos_id=5, eos_id=3, unk_id=0)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (5, 3)
    assert tokenizer.name == "a.model (330 tokens)"


def test_missing_begin_is_said_and_can_be_chosen(tmp_path):
    path = tmp_path / "t5.model"
    settings = {"bos_id": -1, "pad_id": 0, "eos_id": 1, "unk_id": 2}
    message = (
        f"data.text.tokenizer {path}: which token begins a document? Set bos_token to one of its "
        "special tokens: '<pad>', '</s>'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        made(path, **settings)
    tokenizer = load_tokenizer(str(path), bos_token="<pad>")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    with pytest.raises(ValueError, match=r"bos_token 'the': must be one of its special tokens"):
        load_tokenizer(str(path), bos_token="the")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_bytes_and_spaces_count_one_and_control_pieces_nothing(tmp_path, kind):
    tokenizer = made(tmp_path / "a.model", model_type=kind)
    text = "the 🙂\n"
    tokens = tokenizer.encode(text)
    assert tokenizer.byte_lengths[tokens].sum() == len(text.encode()) + 1
    # A space and the bytes that no piece covers.
    assert tokenizer.byte_lengths[tokens].tolist()[-5:] == [1] * 5
    assert tokenizer.byte_lengths[[0, 1, 2]].tolist() == [0, 0, 0]


def test_without_a_space_in_front_lengths_are_those_of_the_text(tmp_path):
    tokenizer = made(tmp_path / "a.model", add_dummy_prefix=False)
    for text in ("the fox", "  注意 ", "\n"):
        tokens = tokenizer.encode(text)
        assert tokenizer.byte_lengths[tokens].sum() == len(text.encode())
        assert tokenizer.decode(tokens) == text


def test_unknown_characters_count_nothing_where_there_are_no_bytes(tmp_path):
    tokenizer = made(tmp_path / "a.model", byte_fallback=False, vocab_size=90)
    tokens = tokenizer.encode("the 🙂")
    assert tokenizer.byte_lengths[tokens].sum() == len(" the ")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}", b"\x00\xff" * 100])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.model"
    path.write_bytes(content)
    message = f"data.text.tokenizer {path}: neither a SentencePiece model nor lines of"
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load_tokenizer(str(path))
    assert "\n" not in str(raised.value)
