import re

import pytest
import tokenizers

from mta_jax.data.tokenizers import load_tokenizer

from . import makers


def load(path, **arguments):
    return load_tokenizer(str(path), **arguments)


@pytest.mark.parametrize(
    ("special", "begin", "end"),
    [
        (["<unk>", "<s>", "</s>"], "<s>", "</s>"),
        (["<pad>", "<eos>", "<bos>"], "<bos>", "<eos>"),
        (["<|begin_of_text|>", "<|end_of_text|>"], "<|begin_of_text|>", "<|end_of_text|>"),
        (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
        (["<|endoftext|>", "<|startoftext|>"], "<|startoftext|>", "<|endoftext|>"),
        (["[PAD]", "[BOS]", "[EOS]"], "[BOS]", "[EOS]"),
        (["<|bos|>", "<|eos|>"], "<|bos|>", "<|eos|>"),
        (
            ["<\uff5cbegin▁of▁sentence\uff5c>", "<\uff5cend▁of▁sentence\uff5c>"],
            "<\uff5cbegin▁of▁sentence\uff5c>",
            "<\uff5cend▁of▁sentence\uff5c>",
        ),
        # Half a pair is none.
        (["<s>", "<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
    ],
)
def test_usual_begin_and_end_are_found(tmp_path, special, begin, end):
    makers.word_level(tmp_path / "a.json", *special)
    tokenizer = load(tmp_path / "a.json")
    # Two words come before them.
    assert tokenizer.bos_id == 2 + special.index(begin)
    assert tokenizer.eos_id == 2 + special.index(end)
    assert tokenizer.vocab_size == 2 + len(special)


def test_begin_and_end_can_be_chosen(tmp_path):
    makers.word_level(tmp_path / "a.json", "<s>", "</s>", "<x>")
    tokenizer = load(tmp_path / "a.json", bos_token="<x>", eos_token="<x>")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (4, 4)
    tokenizer = load(tmp_path / "a.json", eos_token="<x>")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 4)
    makers.word_level(tmp_path / "no_begin.json", "</s>", "<pad>")
    tokenizer = load(tmp_path / "no_begin.json", bos_token="<pad>")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (3, 2)


@pytest.mark.parametrize(
    ("special", "arguments", "message"),
    [
        (
            ["<x>", "<y>"],
            {},
            "which token begins a document? Set bos_token to one of its special tokens: "
            "'<x>', '<y>'",
        ),
        (
            ["<x>"],
            {"bos_token": "<x>"},
            "which token ends a document? Set eos_token to one of its special tokens: '<x>'",
        ),
        ([], {}, "Set bos_token to one of its special tokens: (it has none)"),
        (
            ["<s>", "</s>"],
            {"eos_token": "<end>"},
            "eos_token '<end>': must be one of its special tokens: '<s>', '</s>'",
        ),
        (["<s>", "</s>"], {"bos_token": "a"}, "bos_token 'a': must be one of its special tokens"),
        ([f"<{index}>" for index in range(20)], {}, "'<11>', 8 more"),
    ],
)
def test_what_is_missing_is_said_with_what_there_is(tmp_path, special, arguments, message):
    path = tmp_path / "a.json"
    makers.word_level(path, *special)
    with pytest.raises(ValueError, match=re.escape(f"data.text.tokenizer {path}: ")) as raised:
        load(path, **arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1, 2]", b"not json", b"\xff\xfe", b'{"a": 1}\n']
)
def test_other_json_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "vocab.json"
    path.write_bytes(content)
    message = r"data\.text\.tokenizer .*vocab\.json: no file of the tokenizers library.*\)$"
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_empty_vocabulary_is_refused(tmp_path):
    makers.write_json(tmp_path / "a.json", tokenizers.models.BPE())
    with pytest.raises(ValueError, match=r"a\.json: its vocabulary is empty"):
        load(tmp_path / "a.json")


def test_truncation_and_padding_of_the_file_are_left_out(tmp_path, files):
    model = tokenizers.Tokenizer.from_file(str(files["byte_level.json"]))
    model.enable_truncation(3)
    model.enable_padding(length=7)
    model.save(str(tmp_path / "a.json"))
    for text in ("a", "a" * 50):
        tokens = load(tmp_path / "a.json").encode(text)
        assert tokens.tolist() == load(files["byte_level.json"]).encode(text).tolist()


def test_added_tokens_that_are_not_special_stay_text(tmp_path, files):
    model = tokenizers.Tokenizer.from_file(str(files["byte_level.json"]))
    model.add_tokens(["  ", "<think>注"])
    model.save(str(tmp_path / "a.json"))
    tokenizer = load(tmp_path / "a.json")
    assert tokenizer.vocab_size == load(files["byte_level.json"]).vocab_size + 2
    text = "a    b <think>注ü"
    tokens = tokenizer.encode(text)
    assert tokenizer.vocab_size - 1 in tokens
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_lengths[tokens].sum() == len(text.encode())


def test_lengths_of_words_and_their_parts_include_the_space_between_them(tmp_path):
    names = ["[UNK]", "a", "the", "fox", "##es", ",", "ü"]
    makers.write_json(
        tmp_path / "a.json",
        tokenizers.models.WordPiece({name: index for index, name in enumerate(names)}),
        special=["[UNK]", "[BOS]", "[EOS]"],
        pre_tokenizer=tokenizers.pre_tokenizers.BertPreTokenizer(),
        decoder=tokenizers.decoders.WordPiece(),
    )
    tokenizer = load(tmp_path / "a.json")
    tokens = tokenizer.encode("the foxes, ü")
    assert tokenizer.byte_lengths[tokens].tolist() == [4, 4, 2, 1, 3]
    assert tokenizer.decode(tokens) == "the foxes, ü"
    assert tokenizer.byte_lengths[0] == 0


def test_ids_without_a_token_are_counted_and_empty(tmp_path):
    model = tokenizers.models.WordLevel({"a": 0, "b": 5}, "b")
    makers.write_json(tmp_path / "a.json", model, special=["<s>", "</s>"])
    tokenizer = load(tmp_path / "a.json")
    assert tokenizer.vocab_size == 6
    assert tokenizer.byte_lengths.tolist() == [2, 0, 0, 0, 0, 2]
    assert tokenizer.decode([0, 4, 1]) == "a"
