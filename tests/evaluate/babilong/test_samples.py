import dataclasses
import json

import pytest

from mta_jax.data import ByteTokenizer
from mta_jax.data.haystack import Haystack
from mta_jax.errors import ConfigError
from mta_jax.evaluate.babilong.contexts import Background
from mta_jax.evaluate.babilong.files import BabiFiles
from mta_jax.evaluate.babilong.generator import GeneratedStories
from mta_jax.evaluate.babilong.prompts import Prompt
from mta_jax.evaluate.babilong.samples import SampleMaker, sample_of_row
from mta_jax.evaluate.babilong.tasks import TASKS
from tests.evaluate.babilong.solver import facts_in


@pytest.fixture
def maker(haystack):
    return SampleMaker(
        stories=GeneratedStories(),
        background=Background(haystack, ByteTokenizer()),
        tokenizer=ByteTokenizer(),
        seed=5,
        shots=2,
        max_new_tokens=16,
    )


def test_a_prompt_is_instruction_examples_context_and_question():
    prompt = Prompt(TASKS[1], 2).around("The context.", "Where is Mary?")
    instruction, *examples, last = prompt.split("\n\n")
    assert instruction.endswith("Answer each question with one word.")
    assert last == "The context.\nQuestion: Where is Mary?\nAnswer:"
    answers = [example.rpartition("\nAnswer: ")[2] for example in examples]
    assert len(set(answers)) == 2
    assert set(answers) < set(TASKS[1].labels)
    assert Prompt(TASKS[1], 0).around("A.", "B?").count("Answer:") == 1


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_whole_text_has_its_length_and_holds_the_facts(maker, task):
    for index, number in enumerate(maker.choose(task, 5, length=2048)):
        sample = maker.make(task, length=2048, index=index, number=number)
        # A space alone is no sentence.
        assert 2047 <= sample.num_tokens <= 2048
        # Begin of document, prompt, room for the answer.
        assert len(sample.prompt.encode()) == sample.num_tokens - 1 - 16
        context = sample.prompt.rpartition("\n\n")[2].partition("\nQuestion:")[0]
        assert facts_in(context) == list(sample.story.facts)


def test_length_0_is_the_facts_alone(maker):
    sample = maker.make(TASKS[2], length=0, index=0, number=0)
    story = sample.story
    assert sample.prompt == Prompt(TASKS[2], 2).around(" ".join(story.facts), story.question)
    assert dataclasses.replace(maker, background=None).make(
        TASKS[2], length=0, index=0, number=0
    ) == dataclasses.replace(sample)


def test_only_stories_that_fit_are_chosen(maker):
    task = TASKS[3]
    every = maker.choose(task, 12, length=0)
    assert every == list(range(12))
    for length in (1024, 2048):
        numbers = maker.choose(task, 12, length=length)
        assert numbers != every
        for number in numbers:
            story = maker.stories.story(task, number, seed=5)
            assert len(story.facts) + 1 <= length // 8
            prompt = Prompt(task, 2).around(" ".join(story.facts), story.question)
            assert 1 + len(prompt.encode()) + 16 <= length
    # Nothing that fits is left out.
    long = maker.choose(task, 12, length=1 << 20)
    assert long == every


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_no_question_is_answered_in_the_examples(maker, task):
    maker = dataclasses.replace(maker, seed=0)
    # The examples are among the stories of this seed.
    examples = Prompt(task, 2).examples
    stories = [maker.stories.story(task, number, seed=0) for number in range(100)]
    assert set(examples) <= set(stories)
    for number in maker.choose(task, 98, length=0):
        assert maker.stories.story(task, number, seed=0) not in examples


def test_too_few_stories_are_refused(maker, folder):
    with pytest.raises(
        ConfigError, match=r"of 600 stories of QA2, bAbI-style .* 0 fit a length of"
    ):
        maker.choose(TASKS[2], 2, length=100)
    files = BabiFiles(str(folder), "test", [TASKS[1]])
    with pytest.raises(ConfigError, match=r"samples 4: of 3 stories of QA1, bAbI \(test\), 3 fit"):
        dataclasses.replace(maker, stories=files).choose(TASKS[1], 4, length=0)


@pytest.mark.parametrize("length", [0, 1024])
@pytest.mark.parametrize("of", ["generated", "files"])
def test_a_line_makes_its_sample_again(maker, haystack, folder, of, length):
    stories = maker.stories if of == "generated" else BabiFiles(str(folder), "test", [TASKS[1]])
    maker = dataclasses.replace(maker, stories=stories)
    sample = maker.make(TASKS[1], length=length, index=1, number=2)
    row = json.loads(json.dumps(maker.origin(sample)))
    given = {"stories": stories, "haystack": haystack, "tokenizer": ByteTokenizer()}
    assert sample_of_row(row, **given) == sample
    with pytest.raises(ConfigError, match="prompt_digest"):
        sample_of_row(row | {"index": 2, "story": 1}, **given)


def test_a_line_of_other_text_is_refused(maker, haystack, bpe, folder):
    sample = maker.make(TASKS[1], length=1024, index=0, number=0)
    row = maker.origin(sample)
    given = {"stories": maker.stories, "haystack": haystack, "tokenizer": ByteTokenizer()}
    others = {
        "source": {"stories": BabiFiles(str(folder), "test", [TASKS[1]])},
        "haystack_digest": {"haystack": Haystack("other", ["A sentence of a few words."], "x")},
        "tokenizer": {"tokenizer": bpe},
    }
    for name, other in others.items():
        with pytest.raises(ConfigError, match=f"^{name} .*: the sample was made with"):
            sample_of_row(row, **given | other)


def test_samples_are_those_of_the_seed(maker):
    same = maker.make(TASKS[1], length=1024, index=0, number=0)
    assert maker.make(TASKS[1], length=1024, index=0, number=0) == same
    other = dataclasses.replace(maker, seed=6)
    assert other.make(TASKS[1], length=1024, index=0, number=0).prompt != same.prompt
