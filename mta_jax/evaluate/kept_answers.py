"""What models have answered, kept while an evaluation runs: one that is stopped goes on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mta_jax.errors import UserError


class KeptAnswers:
    """Answers by what was asked, one a line of a file.

    Args:
      path: the file; it is made with the first answer. None keeps nothing.
      asked_of: what answers depend on beside the question, as plain values: the model, the device
        and the code.

    Raises:
      UserError: where the file cannot be read.
    """

    def __init__(self, path: Path | None = None, asked_of: Any = None) -> None:
        self._path = path
        self._asked_of = asked_of
        self._answers = _read(path) if path else {}

    def once(self, question: Any, ask: Callable[[], Any]) -> Any:
        """The answer that is kept, or else what `ask` returns, which is kept.

        Args:
          question: tells it from the others, as plain values.
          ask: returns the answer, as plain values.

        Raises:
          UserError: where it cannot be written.
        """
        if self._path is None:
            return ask()
        text = json.dumps([self._asked_of, question], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        if name not in self._answers:
            self._answers[name] = ask()
            self._write(name)
        return self._answers[name]

    def _write(self, name: str) -> None:
        assert self._path is not None
        line = json.dumps({"question": name, "answer": self._answers[name]})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                # What was cut short stays a line of its own, which is no answer.
                if file.tell():
                    file.seek(-1, 2)
                    line = line if file.read() == b"\n" else "\n" + line
                file.write(line.encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"output {self._path}: answers cannot be kept there ({error.strerror}); what is "
                "in it stays: the same command goes on from there"
            ) from None


def answers_file(output: Path) -> Path:
    """Where the answers of an unfinished evaluation are, beside the folder that it will write."""
    output = output.expanduser().absolute()
    return output.with_name(f"{output.name}.answers.jsonl")


def _read(path: Path) -> dict[str, Any]:
    answers = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"output {path}: cannot be read ({error.strerror})") from None
    for line in lines:
        try:
            kept = json.loads(line)
            answers[kept["question"]] = kept["answer"]
        except (ValueError, TypeError, KeyError):
            # Cut short by a kill or a full disk.
            continue
    return answers
