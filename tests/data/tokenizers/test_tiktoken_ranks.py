import itertools
import re

import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from mta_jax.data.tokenizers import load_tokenizer
from mta_jax.data.tokenizers.tiktoken_ranks import VOCABULARIES

from . import makers


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    """As many ranks as Llama 3 has, made up: 256 bytes, all pairs, and some of three."""
    single = [bytes([byte]) for byte in range(256)]
    pairs = (bytes(pair) for pair in itertools.product(range(256), repeat=2))
    threes = (b"t" + bytes(pair) for pair in itertools.product(range(256), repeat=2))
    tokens = itertools.islice(itertools.chain(single, pairs, threes), 128_000)
    path = tmp_path_factory.mktemp("llama3") / "tokenizer.model"
    path.write_text(makers.ranks_of(tokens))
    return path


def test_llama3_has_its_special_tokens_behind_its_ranks(llama3):
    tokenizer = load_tokenizer(str(llama3))
    assert tokenizer.vocab_size == 128_256
    assert (tokenizer.bos_id, tokenizer.eos_id) == (128_000, 128_001)
    assert tokenizer.name == "tokenizer.model (128,256 tokens)"
    assert (tokenizer.byte_lengths[128_000:] == 0).all()
    text = "they've 12345 Größe\r\n <|begin_of_text|>"
    tokens = tokenizer.encode(text)
    assert tokens.max() < 128_000
    assert tokenizer.decode([128_000, *tokens.tolist(), 128_009, 128_255]) == text
    assert tokenizer.byte_lengths[tokens].sum() == len(text.encode())


def test_end_of_a_turn_may_be_the_end(llama3):
    assert load_tokenizer(str(llama3), eos_token="<|eot_id|>").eos_id == 128_009
    with pytest.raises(ValueError, match=r"eos_token '<eos>': must be one of .*'<\|begin_of_text"):
        load_tokenizer(str(llama3), eos_token="<eos>")


@pytest.mark.parametrize(
    ("ranks", "end", "last"),
    [
        (50_256, 50_256, 50_256),
        (50_280, 50_256, 50_256),
        (100_256, 100_257, 100_276),
        (128_000, 128_001, 128_255),
        (199_998, 199_999, 200_018),
    ],
)
def test_special_tokens_of_the_known_vocabularies(ranks, end, last):
    vocabulary = VOCABULARIES[ranks]
    assert vocabulary.special[vocabulary.end] == end
    assert max(vocabulary.special.values()) == last
    assert len(vocabulary.special) == len(set(vocabulary.special.values()))


CHARACTERS = st.one_of(
    st.sampled_from(" \n\r\t'sSlLtTvVeErRdDmM1234/.aÉ注ǅʰ\u0301"), st.characters(codec="utf-8")
)


@given(text=st.text(CHARACTERS, max_size=40))
@pytest.mark.parametrize("ranks", [50_256, 50_280, 100_256, 128_000, 199_998])
def test_patterns_split_a_text_into_all_of_it(ranks, text):
    assert "".join(regex.findall(VOCABULARIES[ranks].pattern, text)) == text


@pytest.mark.parametrize(
    ("ranks", "pieces"),
    [
        (50_256, ["I", "'m", " 12345", "\n ", " theyVe", ",", "\n\n"]),
        (100_256, ["I", "'m", " ", "123", "45", "\n", " ", " theyVe", ",\n\n"]),
        (199_998, ["I'm", " ", "123", "45", "\n", " ", " they", "Ve", ",\n\n"]),
    ],
)
def test_patterns_split_as_their_vocabularies_do(ranks, pieces):
    text = "I'm 12345\n  theyVe,\n\n"
    assert regex.findall(VOCABULARIES[ranks].pattern, text) == pieces
    assert VOCABULARIES[128_000].pattern == VOCABULARIES[100_256].pattern


def test_pattern_of_gpt2_is_tiktokens():
    public = pytest.importorskip("tiktoken_ext.openai_public")
    theirs = getattr(public, "r50k_pat_str", None)
    if theirs is None:
        pytest.skip("this tiktoken does not name the pattern")
    for text in (*makers.TEXTS, "I'm 12345\n  theyVe,\n\n", " \n ", "'S's  "):
        assert regex.findall(VOCABULARIES[50_256].pattern, text) == regex.findall(theirs, text)


def test_merges_are_tiktokens(files):
    tokenizer = load_tokenizer(str(files["ranks.model"]))
    merged = [b" the", "注意".encode(), b"qu", "é".encode()]
    tokens = [256 + makers.MERGED.index(token) for token in merged]
    assert tokenizer.encode(" the注意qué").tolist() == tokens
    assert tokenizer.byte_lengths[256:].tolist() == [
        *(len(token) for token in makers.MERGED),
        *[0] * 4,
    ]
    assert tokenizer.decode([makers.RANKS + 1, 256]) == "th"


def test_very_long_white_space_is_cut_into_parts(files):
    tokenizer = load_tokenizer(str(files["ranks.model"]))
    for text in (" " * 1_200_000 + "x", "a" + "\n \t" * 400_000 + "the"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            makers.ranks_of([bytes([byte]) for byte in range(255)]),
            "255 ranks: how such a vocabulary splits text is known for 50,256, 50,280, 100,256, "
            "128,000, 199,998",
        ),
        ("IQ== 0\nIg==\n", "line 2, 'Ig==', is no 'base64 rank'"),
        ("IQ== 0\n\nIg 1\n", "line 3, 'Ig 1', is no 'base64 rank'"),
        ("IQ== 0\nIg== -1\n", "line 2, 'Ig== -1', is no 'base64 rank'"),
        (
            makers.ranks_of([b"a" * (index + 1) for index in range(makers.RANKS)]),
            "no rank for the byte 0: all 256 must have one",
        ),
    ],
)
def test_unusable_ranks_are_refused(tmp_path, content, message):
    path = tmp_path / "a.tiktoken"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"data.text.tokenizer {path}: {message}")):
        load_tokenizer(str(path))


@pytest.mark.parametrize(
    ("rank", "message"),
    [(3, "two tokens share a rank"), (makers.RANKS, f"{makers.RANKS} is a special token's")],
)
def test_ranks_are_one_tokens_each(tmp_path, files, rank, message):
    lines = files["ranks.model"].read_text().splitlines()
    lines[-1] = f"{lines[-1].split()[0]} {rank}"
    path = tmp_path / "a.tiktoken"
    path.write_text("\r\n".join(lines))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_tokenizer(str(path))


def test_what_tiktoken_refuses_is_said(tmp_path, files, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(tiktoken, "Encoding", refuse)
    with pytest.raises(ValueError, match=r"ranks\.model: tiktoken refuses it \(first\)$"):
        load_tokenizer(str(files["ranks.model"]))
