"""The parser of settings."""

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import jsonargparse

from mta_jax.command_line.files import complaint_about
from mta_jax.command_line.messages import field_types, one_line
from mta_jax.command_line.named_sections import as_arguments, take_changes
from mta_jax.command_line.plain import to_yaml

Config = TypeVar("Config")

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Parser(jsonargparse.ArgumentParser):
    """Reports every mistake as one line that names the field, and exits with 2."""

    # Parsers that jsonargparse makes for sections by name have none; what they say becomes
    # part of a message of the parser that has.
    config_class: type = object

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.config_class is object:
            super().error(message, ex)
        sys.stderr.write(f"{self.prog}: error: {one_line(message, self.config_class)}\n")
        raise SystemExit(2)


def parse(
    config_class: type[Config],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    has_dry_run: bool = True,
    dry_run_help: str = "Print the settings, parameter counts and memory, and stop.",
) -> tuple[Config, bool]:
    """Reads settings from command-line arguments.

    Args:
      config_class: a dataclass, nested dataclasses become `--section.field`.
      arguments: the command line without the program's name.
      prog: the program's name, for messages.
      description: what the program does, for `--help`.
      has_dry_run: whether there is a `--dry_run`.
      dry_run_help: what that does.

    Returns:
      The settings, and whether `--dry_run` was given.

    Raises:
      SystemExit: with 2 for a mistake, after one line on stderr; with 0 after
        `--help` or `--print_config`.
    """
    arguments = _with_underscores(arguments, config_class)
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    parser.config_class = config_class
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated.")
    if has_dry_run:
        parser.add_argument(
            "--dry_run",
            action="store_true",
            help=dry_run_help,
        )
    parser.add_class_arguments(config_class)
    for file in _config_files(arguments):
        complaint = complaint_about(file, config_class)
        if complaint:
            parser.error(f"config {file}: {complaint}")

    # jsonargparse cannot print sections by name.
    rest = [a for a in arguments if a.partition("=")[0] != "--print_config"]
    is_printed, arguments = len(rest) < len(arguments), rest
    arguments = _with_true(arguments, config_class)
    try:
        arguments, changes = take_changes(arguments, config_class)
        values = parser.parse_args(arguments)
        if changes:
            values = parser.parse_args([*arguments, *as_arguments(changes, values, config_class)])
        dry_run = values.pop("dry_run", False)
        values.pop("config")
        config = config_class(**vars(parser.instantiate(values)))
    except ValueError as error:
        parser.error(str(error))
    infinite = _not_finite(config)
    if infinite:
        parser.error(f"{infinite}: must be finite")
    if is_printed:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config, dry_run


def _with_underscores(arguments: Sequence[str], config_class: type) -> list[str]:
    """The arguments, with flags spelled ``--like-this`` as the settings that they mean."""
    known = {f"--{name}" for name in [*field_types(config_class), "dry_run", "print_config"]}
    spelled = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        meant = flag.replace("-", "_").replace("__", "--", 1)
        spelled.append(f"{meant}{equals}{value}" if meant in known else argument)
    return spelled


def _with_true(arguments: Sequence[str], config_class: type) -> list[str]:
    """The arguments, with ``true`` after each flag of a yes-or-no setting that has no value."""
    flags = {f"--{name}" for name in _yes_or_no(config_class)}
    spelled = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        spelled.append(argument)
        if argument in flags and (following is None or following.startswith("--")):
            spelled.append("true")
    return spelled


def _yes_or_no(config_class: type, prefix: str = "") -> Iterator[str]:
    """Names of the settings that are true or false."""
    for field in dataclasses.fields(config_class):
        if field.type in (bool, bool | None):
            yield prefix + field.name
        elif dataclasses.is_dataclass(field.type) and isinstance(field.type, type):
            yield from _yes_or_no(field.type, f"{prefix}{field.name}.")


def _config_files(arguments: Sequence[str]) -> list[str]:
    """The files that `--config` names."""
    files = [value for flag, value in itertools.pairwise(arguments) if flag == "--config"]
    flags = (argument.partition("=") for argument in arguments)
    return files + [value for flag, equals, value in flags if flag == "--config" and equals]


def _not_finite(config: Any, prefix: str = "") -> str | None:
    """The first number that is infinite or none, which no setting means."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{prefix}{field.name} {value}"
        named = value if isinstance(value, dict) else {}
        sections = {f"{prefix}{field.name}.{name}.": item for name, item in named.items()}
        for name, section in {f"{prefix}{field.name}.": value, **sections}.items():
            if dataclasses.is_dataclass(section) and (inner := _not_finite(section, name)):
                return inner
    return None
