"""Errors that a user can act on: one line, no traceback."""


class UserError(Exception):
    """Something outside the code is wrong; the message says what and what would be right."""

    exit_code = 1


class ConfigError(UserError):
    """A setting is wrong. Exit code 2 tells a scheduler that trying again is useless."""

    exit_code = 2


class PreemptedError(UserError):
    """The process was asked to end, and has saved everything."""
