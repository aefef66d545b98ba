import numpy as np
import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.generate.text_watch import TextWatch
from mta_jax.inference import Continuation

TOKENIZER = ByteTokenizer()


def continuation(text: bytes, finish=None):
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)
    return Continuation(tokens, np.zeros(len(tokens), np.float32), finish)


def follow(pieces: list[bytes], stop=(), prompt="The "):
    """Texts as they come, the last of them final; returns what was shown each time."""
    shown: list[str] = []
    watch = TextWatch(
        TOKENIZER, [TOKENIZER.encode(prompt)], stop=stop, on_text=lambda _, text: shown.append(text)
    )
    for number, piece in enumerate(pieces):
        (is_ended,) = watch([continuation(piece, "length" if number == len(pieces) - 1 else None)])
        if is_ended:
            break
    return watch, shown


def test_text_comes_in_pieces():
    watch, shown = follow([b"cat", b"cat sat", b"cat sat."])
    assert shown == ["cat", " sat", "."]
    assert watch.texts == ["cat sat."]
    assert watch.has_stopped == [False]


def test_half_a_character_waits_for_its_other_half():
    text = "müde".encode()
    watch, shown = follow([text[:2], text[:3], text])
    assert shown == ["m", "ü", "de"]
    assert watch.texts == ["müde"]


def test_half_a_character_at_the_end_is_shown_as_what_it_is():
    watch, shown = follow([b"m", "mü".encode()[:2]])
    assert shown == ["m", "\ufffd"]
    assert watch.texts == ["m\ufffd"]


def test_a_stop_string_ends_the_text_before_it():
    watch, shown = follow([b"cat", b"cat\n\ndog"], stop=["\n\n"])
    assert watch.texts == ["cat"]
    assert watch.has_stopped == [True]
    assert shown == ["cat"]


def test_what_may_become_a_stop_string_waits():
    watch, shown = follow([b"a END", b"a ENDS", b"a ENDS here"], stop=["END.", "x"])
    assert shown == ["a ", "ENDS", " here"]
    assert watch.texts == ["a ENDS here"]


def test_a_stop_string_may_come_in_two_pieces():
    watch, shown = follow([b"one##", b"one###two"], stop=["###"])
    assert shown == ["one"]
    assert watch.texts == ["one"]


def test_the_first_of_several_stop_strings_counts():
    watch, _ = follow([b"abc def"], stop=["def", "bc"])
    assert watch.texts == ["a"]


def test_a_stop_string_in_the_prompt_does_not_count():
    watch, _ = follow([b"cat"], stop=["The"])
    assert watch.texts == ["cat"]
    assert not watch.has_stopped[0]


@pytest.mark.parametrize("stop", [(), ["zz"]])
def test_texts_of_a_batch_are_followed_apart(stop):
    shown: dict[int, str] = {0: "", 1: ""}

    def show(number, text):
        shown[number] += text

    prompt = TOKENIZER.encode("a")
    watch = TextWatch(TOKENIZER, [prompt, prompt], stop=stop, on_text=show)
    watch([continuation(b"x"), continuation(b"yzz", None)])
    watch([continuation(b"xy", "end"), continuation(b"yzzz", "length")])
    assert watch.texts == ["xy", "y" if stop else "yzzz"]
    assert shown == {0: "xy", 1: "y" if stop else "yzzz"}
