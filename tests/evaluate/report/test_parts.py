from pathlib import Path

import numpy as np
import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.evaluate.report.about_runs import flat
from mta_jax.evaluate.report.attention import telling_heads, token_label
from mta_jax.evaluate.report.document import Paragraph
from mta_jax.evaluate.report.kernels import evenly, kernel_blocks
from mta_jax.evaluate.report.markdown import escaped
from mta_jax.evaluate.report.parts import in_parts
from mta_jax.evaluate.report.runs import Run
from tests.training.tiny import toy_config


def test_layers_are_chosen_evenly_with_the_first_and_the_last():
    assert evenly([2, 6, 10, 14, 18, 22], 4) == [2, 10, 14, 22]
    assert evenly([1, 2], 4) == [1, 2]


def test_heads_that_look_at_the_first_token_or_themselves_tell_nothing():
    maps = np.zeros((6, 5, 5))
    maps[0, :, 0] = 1.0
    maps[1] = np.eye(5)
    for head, weight in ((2, 0.5), (3, 0.4), (4, -0.9), (5, 0.6)):
        maps[head, 3, 2] = weight
    assert telling_heads(maps) == [2, 3, 4, 5]
    assert telling_heads(maps[:2]) == [0, 1]


@pytest.mark.parametrize(
    ("text", "label"), [(" ", "\N{OPEN BOX}"), ("\n", "\\n"), ("$", "$"), ("a", "a")]
)
def test_tokens_can_be_seen(text, label):
    tokenizer = ByteTokenizer()
    assert token_label(tokenizer, tokenizer.encode(text)[0]) == label
    assert token_label(tokenizer, tokenizer.bos_id) == "<bos>"
    # Half a character.
    assert token_label(tokenizer, tokenizer.encode("é")[0]) == "\\ufffd"


def test_markdown_leaves_words_as_they_are():
    assert escaped("talking_heads _x_ *y* `z` [a](b) <i> a|b \\") == (
        r"talking_heads \_x\_ \*y\* \`z\` \[a\](b) \<i\> a|b \\"
    )


def test_settings_are_named_as_on_the_command_line():
    assert flat({"a": {"b": None, "c": [1, 2]}, "d": "x", "e": True}) == {
        "a.b": "null",
        "a.c": "[1, 2]",
        "d": "x",
        "e": "true",
    }


def test_parts_hold_everything_in_order():
    assert list(in_parts("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]


def test_kernels_of_many_layers_and_heads_are_split_into_pictures():
    rng = np.random.default_rng(0)
    kernels = {
        (layer, place): rng.normal(size=shape).astype(np.float32)
        for layer in range(7)
        for place, shape in (
            ("pre_kq", (6, 6, 11)),
            ("pre_head", (1, 6, 6)),
            ("post_head", (3, 2, 2)),
        )
        if layer < 5 or place != "pre_kq"
    }
    run = Run(name="r", folder=Path("r"), config=toy_config(), rows=[], timing=[], made_with={})
    chosen, *pictures = kernel_blocks(run, kernels)
    assert chosen == Paragraph("Of r's 5 layers with key-query kernels, 4 are drawn.")
    layers = "from layer 0, before softmax, to layer 4, before softmax"
    assert [picture.caption for picture in pictures] == [
        f"r, key-query kernels: {layers}, heads 0 to 2.",
        f"r, key-query kernels: {layers}, heads 3 to 5.",
        "r, head mixing: from layer 0, before softmax, to layer 5, after softmax.",
        "r, head mixing: from layer 6, before softmax, to layer 6, after softmax.",
    ]
    assert kernel_blocks(run, {}) == []
