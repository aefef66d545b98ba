import numpy as np
import pytest

from mta_jax.data.tokenizers import ByteTokenizer, LetterTokenizer, Tokenizer


@pytest.mark.parametrize("text", ["", "def f(x):\n\treturn x\n", "Größe, 注意力 🙂\0"])
def test_bytes_come_back_as_the_text(text):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_begin_and_end_vanish_from_bytes():
    tokenizer = ByteTokenizer()
    tokens = [tokenizer.bos_id, *tokenizer.encode("ü").tolist(), tokenizer.eos_id]
    assert tokenizer.decode(tokens) == "ü"
    assert sorted({tokenizer.bos_id, tokenizer.eos_id}) == [256, 257]
    assert tokenizer.vocab_size == 258


@pytest.mark.parametrize(
    ("tokens", "text"), [([0xFF, 65], "\ufffdA"), ([65, 0xC3], "A\ufffd"), ([0x80], "\ufffd")]
)
def test_bytes_that_are_no_utf8_become_replacement_characters(tokens, text):
    assert ByteTokenizer().decode(np.array(tokens)) == text


def test_letters_are_the_papers_tokens():
    tokenizer = LetterTokenizer()
    np.testing.assert_array_equal(tokenizer.encode("az.#_"), [0, 25, 26, 27, 28])
    assert tokenizer.encode("").dtype == tokenizer.encode("a").dtype == np.int32
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (29, 30, 32)


def test_letters_come_back_as_the_text():
    tokenizer = LetterTokenizer()
    tokens = [tokenizer.bos_id, *tokenizer.encode("hjnvt.#pr_").tolist(), tokenizer.eos_id, 31]
    assert tokenizer.decode(tokens) == "hjnvt.#pr_"


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), LetterTokenizer()])
def test_what_is_no_token_is_refused(tokenizer):
    last = tokenizer.vocab_size - 1
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"token {token}: the vocabulary has ids 0 to {last}"):
            tokenizer.decode([0, token])


def test_bytes_of_letters_and_bytes_are_one_each_and_none_for_begin_and_end():
    for tokenizer, count in ((ByteTokenizer(), 256), (LetterTokenizer(), 29)):
        lengths = tokenizer.byte_lengths
        assert (lengths.shape, lengths.dtype) == ((tokenizer.vocab_size,), np.int32)
        assert (lengths[:count] == 1).all()
        assert (lengths[count:] == 0).all()


def test_names_and_fingerprints_of_the_built_in_ones_are_words():
    for tokenizer, word in ((ByteTokenizer(), "byte"), (LetterTokenizer(), "letters")):
        assert (tokenizer.name, tokenizer.fingerprint) == (word, word)
        assert isinstance(tokenizer, Tokenizer)


def test_other_characters_are_named():
    with pytest.raises(ValueError, match=r"characters \['A', 'é'\]: block search knows a-z"):
        LetterTokenizer().encode("abAéA")
