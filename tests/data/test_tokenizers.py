import numpy as np
import pytest

from mta_jax.data import ByteTokenizer, LetterTokenizer


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


def test_other_characters_are_named():
    with pytest.raises(ValueError, match=r"characters \['A', 'é'\]: block search knows a-z"):
        LetterTokenizer().encode("abAéA")
