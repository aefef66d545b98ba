import itertools
import re

import numpy as np
import pytest

from mta_jax.evaluate.babilong.generator import GeneratedStories, generate_story, short_stories
from mta_jax.evaluate.babilong.tasks import ROOMS, TASKS
from mta_jax.evaluate.babilong.world import World
from tests.evaluate.babilong.solver import answers

STORIES = GeneratedStories()


@pytest.fixture(scope="module", params=TASKS.values(), ids=lambda task: task.name)
def task_and_stories(request):
    task = request.param
    return task, [STORIES.story(task, number, seed=3) for number in range(300)]


def test_each_question_has_one_answer_which_follows_from_the_facts(task_and_stories):
    _, stories = task_and_stories
    for story in stories:
        assert set(answers(list(story.facts), story.question)) == {story.answer}, story


def test_all_labels_are_answers_and_none_is_favoured(task_and_stories):
    task, stories = task_and_stories
    found = [story.answer for story in stories]
    assert set(found) == set(task.labels)
    assert max(map(found.count, task.labels)) < 0.35 * len(stories)


def test_an_answer_is_never_named_in_its_question(task_and_stories):
    # The rule for written answers would never count it.
    _, stories = task_and_stories
    assert not any(story.answer in re.findall(r"\w+", story.question) for story in stories)


def test_stories_are_about_as_long_as_babis(task_and_stories):
    task, stories = task_and_stories
    numbers = [len(story.facts) for story in stories]
    least, mean, most = {
        1: (2, 6, 10),
        2: (2, 15, 88),
        3: (4, 51, 228),
        4: (2, 2, 2),
        5: (2, 20, 94),
    }[task.number]
    assert least <= min(numbers)
    assert max(numbers) <= most
    assert np.mean(numbers) == pytest.approx(mean, rel=0.25)


def test_stories_differ_and_are_the_same_for_the_same_seed(task_and_stories):
    task, stories = task_and_stories
    assert len(set(stories)) > 0.8 * len(stories)
    assert [STORIES.story(task, number, seed=3) for number in range(5)] == stories[:5]
    assert STORIES.story(task, 0, seed=4) != stories[0]


def test_all_kinds_of_questions_are_asked():
    questions = {STORIES.story(TASKS[5], number, seed=0).question for number in range(200)}
    begins = ("What did", "Who gave the", "Who did", "Who received the")
    assert all(any(question.startswith(begin) for question in questions) for begin in begins)
    assert any(re.fullmatch(r"Who gave the \w+\?", question) for question in questions)
    places = {STORIES.story(TASKS[4], number, seed=0).question for number in range(50)}
    assert {bool(re.match(r"What is the ", question)) for question in places} == {True, False}


def test_what_a_person_holds_goes_with_them():
    world = World(("Mary",), np.random.default_rng(0))
    while not world.handle():
        world.move()
    (thing,) = world.paths
    world.move()
    assert world.place_of(thing) == world.places["Mary"] == world.paths[thing][-1]
    assert world.facts[-1].endswith(f"the {world.places['Mary']}.")


def test_the_place_of_somebody_who_has_not_moved_is_not_known():
    for seed in range(50):
        world = World(("Mary",), np.random.default_rng(seed))
        if world.handle():
            assert list(world.paths.values()) == [[None]]
            assert world.places == {}
            return
    raise AssertionError("nobody was beside a thing")


def test_only_neighbours_in_a_row_of_three_places_are_told():
    for seed in range(20):
        story = generate_story(4, np.random.default_rng(seed))
        rooms = [room for fact in story.facts for room in ROOMS if room in fact]
        assert sorted(map(rooms.count, set(rooms))) == [1, 1, 2]


def test_short_stories_are_short():
    stories = list(itertools.islice(short_stories(TASKS[3], 6), 3))
    assert max(len(story.facts) for story in stories) <= 6
    assert len(set(stories)) == 3
