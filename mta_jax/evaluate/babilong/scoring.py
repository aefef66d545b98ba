"""When an answer is right."""

from collections.abc import Sequence


def first_sentence(text: str) -> str:
    """What a model has answered: its first line up to a full stop, in small letters."""
    lines = text.strip().lower().splitlines()
    return lines[0].partition(".")[0] if lines else ""


def is_right(text: str, *, question: str, target: str, labels: Sequence[str]) -> bool:
    """BABILong's rule for what a model has written.

    Of the labels that its first sentence names, those aside that the question names, there must be
    one, which is the target.

    Args:
      text: what the model has written.
      question: what it was asked.
      target: the right label.
      labels: all labels of the task.
    """
    answer, question = first_sentence(text), question.lower()
    small = [label.lower() for label in labels]
    named = [label for label in small if label in answer and label not in question]
    return named == [target.lower()]
