import base64
import hashlib
import json
import re
import textwrap
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

from mta_jax.viz import attention_page
from mta_jax.viz.interactive.coding import ALPHABET, STEPS

RNG = np.random.default_rng(0)
TOKENS = ["<bos>", " the", "$x$", "\n", "\N{SNOWMAN}"]
NASTY = [
    "</script><img src=x onerror=alert(1)>",
    "&amp;",
    "<!--",
    '"><script>alert(1)</script>',
    "{{data}}",
    "\u2028\ud800",
]


def weights(layers=2, heads=3, queries=5, keys=5):
    return RNG.normal(size=(layers, heads, queries, keys)).astype(np.float32)


class Parsed(HTMLParser):
    """Elements of a page with their attributes, and the text in each kind of them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, attrs = self._open[-1] if self._open else ("", {})
        name = attrs.get("id") or tag
        self.texts[name] = self.texts.get(name, "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def data(self):
        return json.loads(self.texts["data"])


def decoded(head, queries, keys):
    """The weights of a map, by the docstring of `coded`."""
    found = np.zeros((queries, keys))
    rows = head["rows"].split(",")
    assert len(rows) == queries
    for query, row in enumerate(rows):
        for key in range(len(row) // 2):
            first, second = (ALPHABET.index(letter) for letter in row[2 * key : 2 * key + 2])
            found[query, key] = (64 * first + second - STEPS - 1) * head["limit"] / STEPS
    return found


def maps(page, queries=5, keys=5):
    """Every map of a page, by kind, layer and head."""
    return {
        (kind["name"], layer["name"], number): decoded(head, queries, keys)
        for kind in Parsed(str(page)).data["kinds"]
        for layer in kind["layers"]
        for number, head in enumerate(layer["heads"])
    }


def test_weights_are_those_given_within_half_a_step():
    given = weights()
    found = maps(attention_page(given, TOKENS))
    assert len(found) == 6
    for (_, layer, head), values in found.items():
        expected = given[int(layer.removeprefix("layer ")), head]
        half = np.abs(expected).max() / STEPS / 2
        np.testing.assert_allclose(values, expected, rtol=0, atol=1.001 * half)


def test_zeros_stay_zeros_and_end_a_row():
    causal = np.tril(np.ones((1, 1, 5, 5), np.float32))
    causal[0, 0, 4] = 0.0
    page = attention_page(causal, TOKENS)
    ((head,),) = [layer["heads"] for layer in Parsed(str(page)).data["kinds"][0]["layers"]]
    assert [len(row) for row in head["rows"].split(",")] == [2, 4, 6, 8, 0]
    (found,) = maps(page).values()
    np.testing.assert_array_equal(found, causal[0, 0])


def test_a_map_of_zeros_is_one():
    (found,) = maps(attention_page(np.zeros((1, 1, 5, 5)), TOKENS)).values()
    np.testing.assert_array_equal(found, 0)


def test_kinds_and_layers_have_names_and_may_differ_in_heads():
    given = {"mta": [weights()[0], weights(heads=1)[0]], "diff": jnp.ones((1, 2, 5, 5), "bfloat16")}
    names = list(maps(attention_page(given, TOKENS, layer_names=["first", "second"])))
    assert names == [
        *(("mta", "first", head) for head in range(3)),
        ("mta", "second", 0),
        ("diff", "first", 0),
        ("diff", "first", 1),
    ]
    assert {kind for kind, *_ in maps(attention_page(weights(), TOKENS))} == {""}


def test_queries_may_have_labels_of_their_own():
    page = attention_page(weights(queries=2), TOKENS, queries=["a", "b"])
    assert Parsed(str(page)).data["queries"] == ["a", "b"]
    assert next(iter(maps(page, queries=2).values())).shape == (2, 5)
    assert Parsed(str(attention_page(weights(), TOKENS))).data["queries"] is None


def test_a_page_of_four_layers_of_eight_heads_is_small():
    dense = RNG.dirichlet(np.ones(64), size=(4, 8, 64))
    assert len(str(attention_page(dense, ["token"] * 64))) < 300_000


def test_nothing_in_a_token_or_a_name_is_markup():
    size = len(NASTY)
    given = weights(queries=size, keys=size)
    plain = Parsed(
        str(attention_page({"k": given}, ["x"] * size, title="t", layer_names=["a", "b"]))
    )
    page = attention_page({NASTY[0]: given}, NASTY, title=NASTY[3], layer_names=NASTY[:2])
    parsed = Parsed(str(page))
    # The same elements, but for the digests of what has not changed, with the same attributes.
    assert parsed.elements == plain.elements
    assert parsed.data["keys"] == NASTY
    assert parsed.data["kinds"][0]["name"] == NASTY[0]
    assert parsed.texts["title"] == parsed.texts["h1"] == NASTY[3]
    assert parsed.texts["script"] == plain.texts["script"]


def test_the_page_asks_for_nothing_and_runs_its_own_script_only():
    parsed = Parsed(str(attention_page(weights(), TOKENS)))
    attributes = {name for _, attrs in parsed.elements for name in attrs}
    assert not {"src", "href", "srcset", "action", "style"} & attributes
    assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in parsed.texts["style"]
    assert "@import" not in parsed.texts["style"]
    (policy,) = [a["content"] for a in parsed.all("meta") if "http-equiv" in a]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for rule, name in [("script-src", "script"), ("style-src", "style")]:
        digest = hashlib.sha256(parsed.texts[name].encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"


def test_what_the_script_looks_for_is_in_the_page():
    parsed = Parsed(str(attention_page(weights(), TOKENS)))
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'find\("([\w-]+)"\)', parsed.texts["script"])) <= set(ids)


def test_controls_have_names_and_the_page_a_language_and_a_width():
    page = str(attention_page(weights(), TOKENS))
    parsed = Parsed(page)
    assert parsed.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all(
        "meta"
    )
    # Each within a label that has words.
    for control in ("select", "input"):
        assert len(re.findall(rf"<{control} ", page)) == len(parsed.all(control))
    for label in re.findall(r"<label[^>]*>(.*?)</label>", page):
        assert re.sub("<[^>]*>", "", label).strip()
    assert len(parsed.all("label")) == len(parsed.all("select")) + len(parsed.all("input"))
    (canvas,) = parsed.all("canvas")
    assert canvas["aria-label"]
    assert canvas["tabindex"] == "0"


def test_page_and_script_agree_on_the_code_of_weights():
    script = Parsed(str(attention_page(weights(), TOKENS))).texts["script"]
    assert f'ALPHABET = "{ALPHABET}"' in script
    assert f"STEPS = {STEPS};" in script


@pytest.mark.parametrize("signed", [False, True])
def test_zero_is_light_or_dark_as_the_page_is(signed):
    positive = np.abs(weights())
    given = {"a": positive, "b": -positive if signed else positive}
    data = Parsed(str(attention_page(given, TOKENS))).data
    assert data["signed"] == signed
    light = {
        scheme: [sum(bytes.fromhex(stop[1:])) for stop in stops]
        for scheme, stops in data["colours"].items()
    }
    zero = len(light["light"]) // 2 if signed else 0
    assert light["light"][zero] == max(light["light"]) > 600
    assert light["dark"][zero] == min(light["dark"]) < 10


def test_a_page_is_saved_and_shown_in_a_frame_of_its_own(tmp_path):
    page = attention_page(weights(queries=6, keys=6), NASTY, title=NASTY[0])
    path = page.save(tmp_path / "page.html")
    assert path.read_text(encoding="ascii") == page.html == str(page)
    (frame,) = Parsed(page._repr_html_()).elements
    tag, attributes = frame
    assert tag == "iframe"
    assert attributes["srcdoc"] == page.html
    assert attributes["title"] == NASTY[0]
    # Scripts, but nothing of the notebook around it.
    assert attributes["sandbox"] == "allow-scripts"
    assert len(repr(page)) < 200


def test_the_example_makes_a_page_of_a_model():
    example = (
        attention_page.__doc__.split("::\n\n")[1].split("\n\nArgs:")[0].split("\n\n    Args:")[0]
    )
    names: dict = {}
    exec(textwrap.dedent(example), names)
    data = Parsed(str(names["page"])).data
    assert "".join(data["keys"]) == "the cat sat on the mat"
    assert len(data["kinds"][0]["layers"]) == 2
    found = maps(names["page"], queries=22, keys=22)
    for (_, layer, head), values in found.items():
        expected = np.asarray(names["weights"][int(layer[-1])][head])
        np.testing.assert_allclose(values, expected, rtol=0, atol=np.abs(expected).max() / 4000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": TOKENS[:4]}, "tokens: has 4 labels; must have 5, one for each key"),
        (
            {"weights": weights(queries=3)},
            "queries: is None, which takes the 5 labels of the keys; must have 3 labels",
        ),
        ({"queries": ["a"]}, "queries: has 1 labels; must have 5, one for each query"),
        ({"layer_names": ["a"]}, "layer_names: has 1 names; must have 2, one for each layer"),
        (
            {"weights": weights()[None]},
            r"weights: layer 0 has shape \(2, 3, 5, 5\); must be \[heads, queries, keys\]",
        ),
        ({"weights": {"mta": weights()[0]}}, r"weights\['mta'\]: layer 0 has shape \(5, 5\)"),
        ({"weights": weights(heads=0)}, r"weights: layer 0 has shape \(0, 5, 5\)"),
        ({"weights": []}, "weights: has no layers; must have at least one"),
        ({"weights": {}}, "weights: has no kinds; must have at least one"),
        (
            {"weights": [weights()[0], weights(keys=4)[0]]},
            "weights: has maps of 5 queries by 5 keys and of 5 by 4; all must be of the same text",
        ),
    ],
)
def test_what_does_not_match_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_page(**{"weights": weights(), "tokens": TOKENS} | arguments)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    given = weights()
    given[1, 2, 3, 4] = bad
    message = f"layer 1, head 2 has {bad} at query 3, key 4; must be finite"
    with pytest.raises(ValueError, match=message):
        attention_page(given, TOKENS)
