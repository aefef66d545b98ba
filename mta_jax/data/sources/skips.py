"""Documents that cannot be read: counted, reported, and borne up to a share."""

import logging
from typing import NoReturn

from mta_jax.errors import UserError

_logger = logging.getLogger(__name__)

# Each is one line; the rest is counted.
_REPORTED = 10
# Of fewer documents a share says little.
_FEWEST = 100


class Skips:
    """Counts the documents of a domain that were read and that could not be.

    Args:
      name: of the domain, for messages.
      max_share: share of unreadable documents that is borne.
    """

    def __init__(self, name: str, max_share: float):
        self._name = name
        self._max_share = max_share
        self.num_read = 0
        self.num_skipped = 0

    def read(self) -> None:
        """Counts a document that is fine."""
        self.num_read += 1

    def skip(self, where: str, reason: str) -> None:
        """Counts one that is not.

        Args:
          where: its file, and line.
          reason: what is wrong with it.

        Raises:
          UserError: where there are too many.
        """
        self.num_skipped += 1
        if self.num_skipped <= _REPORTED:
            _logger.warning("%s: %s: %s; skipped", self._name, where, reason)
        seen = self.num_read + self.num_skipped
        too_many = self.num_skipped > self._max_share * seen or not self.num_read
        if seen >= _FEWEST and too_many:
            raise UserError(
                f"domain {self._name}: {self.num_skipped} of {seen} documents cannot be read, more "
                f"than data.text.max_skipped {self._max_share} allows; the last one: {where}: "
                f"{reason}"
            )

    def nothing_found(self) -> UserError:
        """What to raise where a whole pass over the source gave no document."""
        return UserError(
            f"domain {self._name}: a whole pass over it gave no document to this process "
            f"({self.num_skipped} cannot be read, {self.num_read} are empty of use: held out, or "
            "of other processes)"
        )


class NoSkips(Skips):
    """Refuses what cannot be read: a part of the text would pass for all of it.

    Args:
      setting: that names the text, for messages.
    """

    def __init__(self, setting: str):
        super().__init__(setting, max_share=0.0)
        self._setting = setting

    def skip(self, where: str, reason: str) -> NoReturn:
        """Raises.

        Raises:
          UserError: always.
        """
        raise UserError(f"{self._setting} {where}: {reason}")
