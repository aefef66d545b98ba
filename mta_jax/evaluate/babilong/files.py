"""Stories from bAbI's files."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mta_jax.errors import ConfigError, UserError
from mta_jax.evaluate.babilong.tasks import Story, Task

_WHERE_FROM = (
    "bAbI v1.2 (en-10k) is published by Facebook Research at "
    "https://research.facebook.com/downloads/babi/"
)


class BabiFiles:
    """The questions of a folder of bAbI's files, such as en-10k.

    Each question is a story of its own: with all facts that stand before it.

    Args:
      folder: holds files such as qa1_single-supporting-fact_test.txt.
      split: "test" or "train".
      tasks: that are asked.

    Raises:
      ConfigError: where the folder or the file of a task is missing.
      UserError: where a file is not as bAbI's are.
    """

    def __init__(self, folder: str, split: str, tasks: list[Task]) -> None:
        self.name = f"bAbI ({split})"
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise ConfigError(f"babi {folder}: no such folder. {_WHERE_FROM}")
        files = {task.number: _file_of(path, task, split) for task in tasks}
        self._stories = {task.number: read_stories(files[task.number], task) for task in tasks}
        self._digests = {
            number: hashlib.sha256(file.read_bytes()).hexdigest() for number, file in files.items()
        }

    def digest(self, task: Task) -> str:
        """Of the task's file."""
        return self._digests[task.number]

    def numbers(self, task: Task, *, seed: int) -> list[int]:
        """Each question of the file once, shuffled."""
        rng = np.random.default_rng([seed, task.number])
        return [int(number) for number in rng.permutation(len(self._stories[task.number]))]

    def story(self, task: Task, number: int, *, seed: int) -> Story:
        """The question with this number in its file, from 0."""
        return self._stories[task.number][number]


def read_stories(file: Path, task: Task) -> list[Story]:
    """The questions of a file, in its order.

    A line is its number in its story and a sentence, or a question, its answer and the numbers
    of the facts behind it, with tabs between them.

    Raises:
      UserError: for anything else, or an answer that the task has not.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"babi {file}: cannot be read ({error})") from None
    stories: list[Story] = []
    facts: list[str] = []
    for place, line in enumerate(lines, 1):
        complaint = functools.partial(_complaint, file, place)
        number, _, rest = line.partition(" ")
        if not number.isdecimal() or not rest.strip():
            raise complaint("is not a number and a sentence, as bAbI's are")
        if number == "1":
            facts = []
        question, *more = rest.split("\t")
        if not more:
            facts.append(rest.strip())
            continue
        if more[0] not in task.labels:
            raise complaint(f"has the answer {more[0]!r}; {task.name} has {', '.join(task.labels)}")
        if not facts:
            raise complaint("asks about no facts")
        stories.append(Story(tuple(facts), question.strip(), more[0]))
    if not stories:
        raise UserError(f"babi {file}: holds no question")
    return stories


def _file_of(folder: Path, task: Task, split: str) -> Path:
    pattern = f"qa{task.number}_*_{split}.txt"
    found: Iterator[Path] = iter(sorted(folder.glob(pattern)))
    file = next(found, None)
    if file is None:
        raise ConfigError(f"babi {folder}: has no file {pattern}. {_WHERE_FROM}")
    return file


def _complaint(file: Path, place: int, what: str) -> UserError:
    return UserError(f"babi {file}: line {place} {what}")
