import numpy as np
import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.data.haystack import Haystack
from mta_jax.errors import ConfigError
from mta_jax.evaluate.babilong.contexts import Background, hide

FACTS = [f"Fact {number} is here." for number in range(12)]


@pytest.fixture(params=["bytes", "pairs"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "bytes" else request.getfixturevalue("bpe")


def hidden(background, tokenizer, num_tokens, *, seed=0, facts=FACTS):
    return hide(
        facts,
        background,
        num_tokens,
        count=lambda text: len(tokenizer.encode(text)),
        rng=np.random.default_rng(seed),
    )


@pytest.mark.parametrize("num_tokens", [300, 1000, 1001, 4099])
def test_a_context_has_the_stated_number_of_tokens(haystack, tokenizer, num_tokens):
    background = Background(haystack, tokenizer)
    for seed in range(20):
        text = hidden(background, tokenizer, num_tokens, seed=seed)
        count = len(tokenizer.encode(text))
        # A space alone is no sentence, and pairs of letters do not allow every number.
        slack = 1 if isinstance(tokenizer, ByteTokenizer) else 2
        assert num_tokens - slack <= count <= num_tokens


def test_facts_are_all_there_in_their_order_and_whole(haystack, tokenizer):
    background = Background(haystack, tokenizer)
    for seed in range(20):
        text = hidden(background, tokenizer, 2000, seed=seed)
        places = [text.index(fact) for fact in FACTS]
        assert places == sorted(places)
        assert all(text.count(fact) == 1 for fact in FACTS)


def test_other_sentences_follow_each_other_and_the_short_ones_are_left_out(haystack):
    tokenizer = ByteTokenizer()
    background = Background(haystack, tokenizer)
    text = hidden(background, tokenizer, background.num_tokens, facts=["Fact."])
    others = text.replace("Fact. ", "").replace(" Fact.", "")
    assert "Short." not in others
    start = next(n for n in range(400) if others.startswith(haystack.sentences[n]))
    order = [*haystack.sentences[start:400], *haystack.sentences[:start]]
    # After the last sentence comes the first; the last one is cut.
    assert " ".join(order).startswith(others)
    assert len(others) > len(" ".join(order)) - 10


def test_places_are_uniform_and_independent(haystack):
    tokenizer = ByteTokenizer()
    background = Background(haystack, tokenizer)
    places, together = [], 0
    for seed in range(400):
        text = hidden(background, tokenizer, 3000, seed=seed, facts=["Fact 1.", "Fact 2."])
        places += [text.index("Fact 1."), text.index("Fact 2.")]
        together += "Fact 1. Fact 2." in text
    shares, _ = np.histogram(places, bins=4, range=(0, 3000))
    # 200 of 800 in each quarter, within five standard deviations.
    assert np.abs(shares - 200).max() < 5 * np.sqrt(800 * 0.25 * 0.75)
    # Two facts of about 50 gaps fall into one about once in 50 times.
    assert 0 < together < 30


def test_the_seed_decides(haystack):
    background = Background(haystack, ByteTokenizer())
    texts = {hidden(background, ByteTokenizer(), 900, seed=seed) for seed in (0, 0, 1)}
    assert len(texts) == 2


def test_facts_that_fill_the_context_stand_alone(haystack):
    background = Background(haystack, ByteTokenizer())
    alone = " ".join(FACTS)
    assert hidden(background, ByteTokenizer(), len(alone)) == alone


@pytest.mark.parametrize("sentences", [["A sentence of a few words."], ["Short."]])
def test_a_short_haystack_says_how_much_is_needed(sentences):
    background = Background(Haystack("tiny.txt", sentences, ""), ByteTokenizer())
    has = background.num_tokens
    needed = 2000 - len(" ".join(FACTS))
    message = f"haystack tiny.txt: has {has} tokens in sentences of at least 10; {needed:,} are"
    with pytest.raises(ConfigError, match=message):
        hidden(background, ByteTokenizer(), 2000)
