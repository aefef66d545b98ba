import dataclasses
import json

import numpy as np
import pytest

from mta_jax.data import ByteTokenizer, DataConfig, DomainConfig, TextConfig, load_data
from mta_jax.data.haystack import Haystack
from mta_jax.data.needles import NeedleDocuments, NeedleSpec, check_spec, draw_context
from mta_jax.data.needles.cities import CITIES
from mta_jax.errors import ConfigError

TOKENIZER = ByteTokenizer()
HAYSTACK = Haystack("here", [f"Sentence {number} of it." for number in range(400)], "digest")
SIZES = HAYSTACK.token_counts(TOKENIZER)


def drawn(seed=0, **settings):
    spec = NeedleSpec(**{"length": 700, "num_needles": 3} | settings)
    return draw_context(HAYSTACK, SIZES, TOKENIZER, spec, np.random.default_rng(seed))


def size(text):
    return len(TOKENIZER.encode(text))


def test_no_city_can_be_taken_for_another():
    assert len(set(CITIES)) == len(CITIES)
    assert not [(a, b) for a in CITIES for b in CITIES if a != b and a in b]


@pytest.mark.parametrize("num_asked", [1, 2, 3])
def test_a_context_tells_every_number_once_and_asks_for_some(num_asked):
    context = drawn(num_asked=num_asked)
    for city, number in zip(context.cities, context.numbers, strict=True):
        assert context.text.count(f"The magic number of {city} is {number}.") == 1
        assert context.text.count(city) == 1
    assert len(set(context.numbers)) == 3
    question = context.prompt[len(context.text) :]
    assert [city for city in context.cities if city in question] == list(context.cities[:num_asked])
    whole = context.prompt + context.answer
    answers = [f"The magic number of {city} is {number}." for city, number in context.asked]
    assert whole.endswith(" ".join(answers))
    for place, (_, number) in enumerate(context.asked):
        assert whole.startswith(f"{context.prompt_for(place)} {number}.")


def test_a_question_reads_like_one():
    context = drawn(num_asked=2)
    one, two = context.cities[:2]
    question = f"\n\nQuestion: What are the magic numbers of {one} and {two}?\n"
    assert question + f"Answer: The magic number of {one} is" in context.prompt


@pytest.mark.parametrize("length", [400, 700, 5000])
def test_the_length_is_used_and_not_exceeded(length):
    for seed in range(5):
        context = drawn(seed, length=length)
        used = 1 + size(context.prompt + context.answer)
        assert length - SIZES.max() <= used <= length


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_the_needle_asked_for_lies_at_its_depth_and_the_others_anywhere(depth):
    others = []
    for seed in range(40):
        context = drawn(seed, depth=depth, length=3000)
        places = [
            size(context.text[: context.text.index(city)]) / size(context.text)
            for city in context.cities
        ]
        assert places[0] == pytest.approx(depth, abs=0.03)
        assert context.depth == pytest.approx(depth, abs=0.02)
        others += places[1:]
    assert np.histogram(others, bins=4, range=(0, 1))[0].min() >= 10


def test_order_and_text_are_drawn():
    contexts = [drawn(seed) for seed in range(20)]
    assert len({context.text for context in contexts}) == 20
    assert contexts[0] == drawn(0)
    first = [context.text.index(context.cities[0]) for context in contexts]
    second = [context.text.index(context.cities[1]) for context in contexts]
    assert 0 < sum(np.less(first, second)) < 20


@pytest.mark.parametrize(("digits", "low", "high"), [(1, 0, 9), (3, 100, 999), (7, 10**6, 10**7)])
def test_numbers_have_their_digits(digits, low, high):
    numbers = [int(n) for seed in range(30) for n in drawn(seed, digits=digits).numbers]
    assert low <= min(numbers)
    assert max(numbers) <= high
    assert max(numbers) - min(numbers) > (high - low) / 2


def test_more_needles_than_numbers():
    assert len(drawn(num_needles=12).numbers) == 12


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"length 100: 3 needles with a question for 1 take up to"):
        drawn(length=100)
    with pytest.raises(
        ValueError, match=r"haystack here: has 7,890 tokens, and a context has 9,900"
    ):
        drawn(length=9900)


def test_what_passes_the_check_can_be_drawn_whatever_the_cities():
    most = 1
    while True:
        spec = NeedleSpec(length=most, num_needles=5, num_asked=2, digits=3)
        try:
            check_spec(spec, HAYSTACK, SIZES, TOKENIZER)
            break
        except ValueError:
            most += 1
    longest = [drawn(seed, **dataclasses.asdict(spec)) for seed in range(200)]
    assert max(1 + size(context.prompt + context.answer) for context in longest) <= most


LOCATION = "needles:python:docs?length=400&needles=1,2&asked=1,2&documents=300"


def documents(location=LOCATION):
    return NeedleDocuments(location, TOKENIZER, "data.text.domains.a.train")


def test_documents_for_training():
    source = documents()
    assert len(source) == 300
    counts = {source[index].prompt.count("The magic number of") for index in range(20)}
    # One needle and the answer, two needles and one or both of their answers.
    assert counts == {2, 3}
    document = source[7]
    assert document == source[7]
    assert document.content.startswith(" ")
    assert document.content.endswith(".")
    whole = documents(LOCATION + "&loss=all")[7]
    assert whole.content == document.prompt + document.content
    assert not whole.prompt
    assert documents(LOCATION + "&seed=1")[7] != document
    assert documents(LOCATION + "&seed=1").summary() != source.summary()


def test_a_run_learns_the_answers_and_holds_some_documents_out():
    text = TextConfig(
        domains={"needles": DomainConfig(train=LOCATION)},
        sequence_length=400,
        packing="best_fit",
        heldout_rows=4,
    )
    data = load_data(DataConfig(source="text", text=text, batch_size=2), seed=0, held_out_rows=2)
    tokenizer = data.tokenizer
    for batches in (data.train, data.held_out["needles"].batches):
        batch = next(iter(batches))
        for row in range(2):
            # A document whose beginning is in another row would have no answer.
            assert batch["inputs"][row][0] == tokenizer.bos_id
            learned = batch["targets_weights"][row] > 0
            assert 0 < learned.sum() < 100
            answer = tokenizer.decode(batch["targets"][row][learned])
            assert answer.strip()[0].isdigit()
            assert batch["targets"][row][learned][-1] == tokenizer.eos_id


def test_the_field_of_a_domain_is_that_of_its_haystack(tmp_path):
    file = tmp_path / "hay.jsonl"
    file.write_text(json.dumps({"body": " ".join(HAYSTACK.sentences), "text": "Not this."}))
    domain = DomainConfig(train=f"needles:{file}?length=400", field="body")
    text = TextConfig(domains={"a": domain}, sequence_length=400, packing="best_fit")
    data = load_data(DataConfig(source="text", text=text, batch_size=1), seed=0, held_out_rows=1)
    shown = data.tokenizer.decode(next(iter(data.train))["inputs"][0])
    assert "of it. Sentence" in shown


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("needles:", "expected needles:TEXT"),
        ("needles:python:docs?lenght=3", "no option 'lenght'; there are asked, digits"),
        ("needles:python:docs?length=x", "length 'x': must be a whole number"),
        ("needles:python:docs?needles=0", r"needles '0': must be in 1..175"),
        ("needles:python:docs?digits=1,2", "digits '1,2': must be one number"),
        ("needles:python:docs?loss=none", "loss 'none': must be answer or all"),
        (
            "needles:python:docs?length=100",
            r"length 100: 4 needles with a question for 1 take up to \d+",
        ),
        ("needles:nowhere", "nowhere"),
    ],
)
def test_a_wrong_location_is_one_line(location, message):
    with pytest.raises(ConfigError, match=message) as error:
        documents(location)
    assert "data.text.domains.a.train" in str(error.value)


def test_needles_are_a_domain_of_their_own():
    text = TextConfig(domains={"a": DomainConfig(train=[LOCATION, "python:docs"])})
    config = dataclasses.replace(DataConfig(source="text"), text=text)
    with pytest.raises(ConfigError, match="a domain of their own"):
        load_data(config, seed=0, held_out_rows=1)
