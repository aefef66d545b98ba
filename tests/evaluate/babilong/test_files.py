import os
from pathlib import Path

import pytest

from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.babilong.files import BabiFiles, read_stories
from mta_jax.evaluate.babilong.tasks import TASKS, Story
from tests.evaluate.babilong.solver import answers

# A folder with bAbI v1.2's en-10k, from https://research.facebook.com/downloads/babi/
BABI = os.environ.get("MTA_JAX_BABI", "")


def test_each_question_has_the_facts_before_it(folder):
    stories = BabiFiles(str(folder), "test", [TASKS[1]])
    assert stories.name == "bAbI (test)"
    assert [stories.story(TASKS[1], number, seed=0) for number in range(3)] == [
        Story(("Mary moved to the office.",), "Where is Mary?", "office"),
        Story(
            ("Mary moved to the office.", "John went to the garden."), "Where is John?", "garden"
        ),
        Story(("Mary went to the kitchen.",), "Where is Mary?", "kitchen"),
    ]


def test_questions_are_shuffled_by_the_seed(folder):
    stories = BabiFiles(str(folder), "test", [TASKS[1]])
    orders = {tuple(stories.numbers(TASKS[1], seed=seed)) for seed in range(20)}
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2)}
    assert len(orders) > 1


def test_the_digest_is_that_of_the_file(folder):
    before = BabiFiles(str(folder), "test", [TASKS[1]]).digest(TASKS[1])
    (file,) = folder.glob("qa1_*")
    file.write_text(file.read_text().replace("Mary", "Anna"))
    assert BabiFiles(str(folder), "test", [TASKS[1]]).digest(TASKS[1]) != before


def test_missing_files_are_named_with_where_they_are_published(folder):
    published = r"bAbI v1\.2 \(en-10k\) .* https://research\.facebook\.com/downloads/babi/"
    with pytest.raises(ConfigError, match=rf"babi nowhere: no such folder\. {published}"):
        BabiFiles("nowhere", "test", [TASKS[1]])
    with pytest.raises(ConfigError, match=rf"has no file qa3_\*_test\.txt\. {published}"):
        BabiFiles(str(folder), "test", [TASKS[1], TASKS[3]])
    with pytest.raises(ConfigError, match=r"has no file qa1_\*_train\.txt"):
        BabiFiles(str(folder), "train", [TASKS[1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Mary moved.\n", "line 1 is not a number and a sentence"),
        ("1\n", "line 1 is not a number and a sentence"),
        (
            "1 A fact.\n2 Where is Mary?\tcellar\t1\n",
            "line 2 has the answer 'cellar'; QA1 has bath",
        ),
        ("1 Where is Mary?\toffice\t1\n", "line 1 asks about no facts"),
        ("1 A fact.\n", "holds no question"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content, message):
    file = tmp_path / "qa1_x_test.txt"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_stories(file, TASKS[1])


@pytest.mark.skipif(not BABI, reason="MTA_JAX_BABI names no folder with bAbI's files")
@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_what_the_generators_solver_means_is_what_babi_means(task, split):
    files = list(Path(BABI).glob(f"qa{task.number}_*_{split}.txt"))
    if not files:
        pytest.skip(f"{BABI} has no such file")
    stories = read_stories(files[0], task)
    right = [answers(list(story.facts), story.question)[-1] == story.answer for story in stories]
    # Two of QA5's test questions ask about another gift than the last one.
    assert len(right) >= 1000
    assert sum(right) >= (0.995 if task.number == 5 else 1.0) * len(right)
