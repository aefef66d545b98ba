import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mta_jax.data.tokenizers import Tokenizer, load_tokenizer

from . import makers

# SentencePiece and its like write spaces so, and cannot tell them apart.
SPACE = "\u2581"
CHARACTERS = st.one_of(
    st.sampled_from(" \n\tthe qu.<|a|>0\0é注"),
    st.characters(codec="utf-8", exclude_characters=SPACE),
)


def space_in_front(tokenizer, text):
    """Bytes of the space that some tokenizers put before a text."""
    return int(text != "" and tokenizer.name.startswith(("llama2", "sentence")))


@given(text=st.text(CHARACTERS, max_size=40))
@settings(max_examples=60, deadline=None)
def test_every_text_comes_back_and_its_bytes_add_up(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokenizer.decode(tokens) == text
    counted = tokenizer.byte_lengths[tokens].sum()
    assert counted == len(text.encode()) + space_in_front(tokenizer, text)


def test_it_is_what_the_trainer_needs(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.byte_lengths.dtype == np.int32
    assert not tokenizer.byte_lengths.flags.writeable
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.int32
    for token in (tokenizer.bos_id, tokenizer.eos_id):
        assert 0 <= token < tokenizer.vocab_size
        assert tokenizer.byte_lengths[token] == 0


def test_begin_and_end_are_not_added_and_vanish(tokenizer):
    tokens = tokenizer.encode("the Größe")
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(tokens.tolist())
    around = np.concatenate([[tokenizer.bos_id], tokens, [tokenizer.eos_id]])
    assert tokenizer.decode(around) == tokenizer.decode(around.tolist()) == "the Größe"


@pytest.mark.parametrize("name", ["<s>", "</s>", "<|bos|>", "<|eos|>", "<|a|>", "<|b|>"])
def test_names_of_special_tokens_are_text(tokenizer, name):
    tokens = tokenizer.encode(f"the {name}{name} end")
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(tokens.tolist())
    assert tokenizer.decode(tokens) == f"the {name}{name} end"


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83d\ude42", "🙂"),
        ("\ufeff\ud800", None),
    ],
)
def test_surrogates_do_no_harm(tokenizer, text, replaced):
    replaced = "\ufeff\ufffd" if replaced is None else replaced
    assert tokenizer.decode(tokenizer.encode(text)) == replaced


def test_part_of_a_character_becomes_a_replacement_character(tokenizer):
    decoded = tokenizer.decode(tokenizer.encode("e🙂")[:-1])
    assert decoded[0] == "e"
    assert set(decoded[1:]) == {"\ufffd"}


def test_what_is_no_token_is_refused(tokenizer):
    last = tokenizer.vocab_size - 1
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"token {token}: the vocabulary has ids 0 to {last}$"):
            tokenizer.decode(np.array([0, token]))


def test_every_single_token_can_be_decoded(tokenizer):
    assert all(isinstance(tokenizer.decode([token]), str) for token in range(tokenizer.vocab_size))


def test_pickled_it_is_the_same(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    for field in ("name", "vocab_size", "bos_id", "eos_id", "fingerprint"):
        assert getattr(again, field) == getattr(tokenizer, field)
    np.testing.assert_array_equal(again.encode("the fox"), tokenizer.encode("the fox"))


@pytest.mark.parametrize("text", [" " * 250_000 + "x", "a" * 250_000, "the\n" * 50_000])
def test_long_documents_are_no_trouble(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_name_is_the_file_and_its_size(files):
    tokenizer = load_tokenizer(str(files["llama2_like.json"]))
    assert tokenizer.name == "llama2_like.json (267 tokens)"


def test_fingerprint_is_that_of_the_content_and_of_the_callers_choice(tmp_path):
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path in paths[:2]:
        makers.word_level(path, "<s>", "</s>")
    makers.word_level(paths[2], "<s>", "</s>", "<pad>")
    first, same, other = (load_tokenizer(str(path)) for path in paths)
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint)
    assert first.fingerprint == same.fingerprint != other.fingerprint
    chosen = {
        load_tokenizer(str(paths[0]), **choice).fingerprint
        for choice in ({"bos_token": "</s>"}, {"eos_token": "</s>"}, {"eos_token": "<s>"})
    }
    assert len(chosen - {first.fingerprint}) == 3


def test_file_that_changed_meanwhile_is_not_taken_for_the_same(tmp_path):
    path = tmp_path / "a.json"
    makers.word_level(path, "<s>", "</s>")
    pickled = pickle.dumps(load_tokenizer(str(path)))
    makers.word_level(path, "<s>", "</s>", "<pad>")
    with pytest.raises(ValueError, match=r"data\.text\.tokenizer .*a\.json: the file has changed"):
        pickle.loads(pickled)
