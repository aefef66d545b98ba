"""Unreadable documents, counted by file and judged over all of the input."""

import collections
import re
from collections.abc import Mapping

from mta_jax.data.sources import Skips
from mta_jax.errors import UserError

# Of the documents of a shard; each is one line.
_REASONS = 10
# Files with the most unreadable documents that a shard reports.
_FILES = 20
# Of fewer documents a share says little.
_FEWEST = 100


class Tally(Skips):
    """Counts what was read and what could not be, from the last `restart` on.

    Args:
      max_share: share of unreadable documents that is borne.
      expected: documents of all of the input, where that is known.

    Attributes:
      reasons: what is wrong with the first ones.
    """

    def __init__(self, max_share: float, expected: int | None):
        super().__init__("input", max_share)
        self._expected = expected
        self.restart()

    def restart(self) -> None:
        """Counts from zero."""
        self.num_read = self.num_skipped = 0
        self.reasons: list[str] = []
        self._files: collections.Counter[str] = collections.Counter()

    def skip(self, where: str, reason: str) -> None:
        """Counts one that cannot be read.

        Raises:
          UserError: where they are too many, whatever is still to come.
        """
        self.num_skipped += 1
        self._files[file_of(where)] += 1
        if len(self.reasons) < _REASONS:
            self.reasons.append(f"{where}: {reason}")
        check_share(
            self.num_read,
            self._files,
            [f"{where}: {reason}", *self.reasons],
            max_share=self._max_share,
            expected=self._expected,
        )

    def skip_empty(self, where: str, reason: str) -> None:
        """Counts one that could be read, and may have been counted so, but holds nothing."""
        self.num_read = max(0, self.num_read - 1)
        self.skip(where, reason)

    @property
    def worst_files(self) -> dict[str, int]:
        """Unreadable documents of the files that have most of them."""
        return dict(self._files.most_common(_FILES))


def file_of(where: str) -> str:
    """The file of a document's name, which may end in a line, or a row group and a row."""
    return re.sub(r"(:\d+)+$", "", where)


def check_share(
    num_read: int,
    skipped: Mapping[str, int],
    reasons: list[str],
    *,
    max_share: float,
    expected: int | None,
) -> None:
    """Stops where too many documents cannot be read.

    Args:
      num_read: documents that are fine.
      skipped: by file, those that are not.
      reasons: what is wrong with some of them, each behind its name.
      max_share: share that is borne.
      expected: all documents, where their number is known: then what was seen first does
        not weigh more than the rest.

    Raises:
      UserError: names the worst file, and one of its documents.
    """
    num_skipped = sum(skipped.values())
    seen = num_read + num_skipped
    if num_skipped <= max_share * max(seen, expected or 0):
        return
    if expected is None and seen < _FEWEST:
        return
    documents = max(seen, expected or 0)
    worst = max(skipped, key=lambda file: (skipped[file], file))
    example = next((r for r in reasons if file_of(r.split(": ")[0]) == worst), reasons[0])
    raise UserError(
        f"input: at least {num_skipped:,} of {documents:,} documents cannot be read, "
        f"more than max_skipped {max_share} allows; {worst} has {skipped[worst]:,} of these, such "
        f"as {example}"
    )
