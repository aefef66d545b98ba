import pytest

from mta_jax.evaluate.babilong.scoring import first_sentence, is_right
from mta_jax.evaluate.babilong.tasks import TASKS
from mta_jax.evaluate.text_model import likeliest
from mta_jax.inference import Score


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (" Garden. And the office.", "garden"),
        ("\n garden\nQuestion: Where is the office?", "garden"),
        ("The Garden", "the garden"),
        ("", ""),
        (" \n ", ""),
        (". garden", ""),
    ],
)
def test_the_first_sentence_is_the_answer(text, first):
    assert first_sentence(text) == first


@pytest.mark.parametrize(
    ("task", "question", "text", "target", "right"),
    [
        (1, "Where is Mary?", " garden", "garden", True),
        (1, "Where is Mary?", "Mary is in the GARDEN.", "garden", True),
        (1, "Where is Mary?", "the office", "garden", False),
        (1, "Where is Mary?", "", "garden", False),
        # One label only.
        (1, "Where is Mary?", "the garden or the office", "garden", False),
        (1, "Where is Mary?", "the garden. The office", "garden", True),
        (1, "Where is Mary?", "the garden\nthe office", "garden", True),
        # Those of the question do not count.
        (3, "Where was the milk before the office?", "garden, then office", "garden", True),
        (4, "What is north of the office?", "The garden is north of the office.", "garden", True),
        (5, "What did Fred give to Jeff?", "Fred gave the milk to Jeff", "milk", True),
        (5, "What did Fred give to Jeff?", "Fred gave the milk to Mary", "milk", False),
        (5, "Who gave the milk?", "fred", "Fred", True),
    ],
)
def test_babilongs_rule(task, question, text, target, right):
    labels = TASKS[task].labels
    assert is_right(text, question=question, target=target, labels=labels) == right


def test_the_likeliest_label_is_that_of_all_its_tokens_together():
    scores = [Score(-3.0, 1, False), Score(-2.5, 1, True), Score(-4.0, 4, False)]
    assert likeliest(["a", "b", "c"], scores) == "b"
