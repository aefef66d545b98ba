"""One way to read settings, shared by every command.

Settings are dataclasses. They come from YAML files (`--config`, several are
layered), from `--section.field value`, and from defaults, in that order of
precedence from last to first.
"""

import dataclasses
import difflib
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

Config = TypeVar("Config")

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


_EMPTY = "''"
_YAML_WORDS = {"": _EMPTY, "None": "null", "True": "true", "False": "false"}


class _Parser(jsonargparse.ArgumentParser):
    """Reports every mistake as one line that names the field, and exits with 2."""

    config_class: type

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {_one_line(message, self.config_class)}\n")
        raise SystemExit(2)


def parse(
    config_class: type[Config], arguments: Sequence[str], *, prog: str, description: str
) -> tuple[Config, bool]:
    """Reads settings from command-line arguments.

    Args:
      config_class: a dataclass, nested dataclasses become `--section.field`.
      arguments: the command line without the program's name.
      prog: the program's name, for messages.
      description: what the program does, for `--help`.

    Returns:
      The settings, and whether `--dry_run` was given.

    Raises:
      SystemExit: with 2 for a mistake, after one line on stderr; with 0 after
        `--help` or `--print_config`.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    parser.config_class = config_class
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated.")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the settings, parameter counts and memory, and stop.",
    )
    parser.add_class_arguments(config_class)
    for file in _config_files(arguments):
        complaint = _file_complaint(file, config_class)
        if complaint:
            parser.error(f"config {file}: {complaint}")
    values = parser.parse_args(list(arguments))
    dry_run = values.pop("dry_run")
    values.pop("config")
    try:
        return config_class(**vars(parser.instantiate(values))), dry_run
    except ValueError as error:
        parser.error(str(error))


def _one_line(message: str, config_class: type) -> str:
    """Rewrites a message of jsonargparse as "field value: what would be right"."""
    message = message.strip()
    name = _unknown_name(message)
    if name:
        close = difflib.get_close_matches(name, _field_names(config_class), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else "; --help lists the settings"
        return f"unknown setting {name!r}{hint}"
    key = re.search(r"(?:Parser key|Key) [\"']([\w.]+)[\"']", message)
    unreadable = re.search(r"Parser key \"([\w.]+)\":\s+Unable to load config '(.*?)'", message)
    if unreadable:
        return f"{unreadable[1]} {unreadable[2] or _EMPTY}: expected a YAML file of this section"
    value = re.search(r"(?:Given|Got) value:[^\S\n]*(.*)", message)
    if key and value and key[1] in (types := _field_types(config_class)):
        given = _YAML_WORDS.get(value[1], value[1])
        return f"{key[1]} {given}: expected {_spell(types[key[1]])}"
    return " ".join(message.split())


def _config_files(arguments: Sequence[str]) -> list[str]:
    """The files that `--config` names."""
    files = [value for flag, value in itertools.pairwise(arguments) if flag == "--config"]
    flags = (argument.partition("=") for argument in arguments)
    return files + [value for flag, equals, value in flags if flag == "--config" and equals]


def _file_complaint(file: str, config_class: Any) -> str | None:
    """What is wrong with a settings file as a whole, which jsonargparse does not say."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return f"not valid YAML ({' '.join(str(error).split())})"
    if not isinstance(content, dict):
        return "expected settings by name"
    misplaced = _misplaced_value(content, config_class)
    return f"{misplaced}: expected a section of settings" if misplaced else None


def _misplaced_value(content: dict[str, Any], config_class: Any) -> str | None:
    """The first section that holds a single value instead of settings."""
    for name, field_type in get_type_hints(config_class).items():
        if name not in content or not dataclasses.is_dataclass(field_type):
            continue
        section = content[name]
        if not isinstance(section, dict):
            return f"{name} {section}"
        inner = _misplaced_value(section, field_type)
        if inner:
            return f"{name}.{inner}"
    return None


def _unknown_name(message: str) -> str | None:
    """The dotted name that jsonargparse does not know, if that is what it says."""
    on_command_line = re.search(r"[Uu]nrecognized arguments: --([^\s=]+)", message)
    if on_command_line:
        return on_command_line[1]
    in_section = re.search(r"Group '(\S+)' does not accept option '(\S+)'", message)
    if in_section:
        return f"{in_section[1]}.{in_section[2]}"
    in_file = re.search(r"(?:[Kk]ey|Option) '([\w.]+)' is not (?:expected|accepted)", message)
    return in_file[1] if in_file else None


def _field_types(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all fields and their types."""
    types: dict[str, Any] = {}
    for name, field_type in get_type_hints(config_class).items():
        types[prefix + name] = field_type
        if dataclasses.is_dataclass(field_type):
            types |= _field_types(field_type, f"{prefix}{name}.")
    return types


def _field_names(config_class: Any) -> list[str]:
    return [*_field_types(config_class), "config", "dry_run", "print_config"]


def _spell(field_type: Any) -> str:
    """A type as a user would say it."""
    if isinstance(field_type, type) and not get_args(field_type):
        return {"NoneType": "null"}.get(field_type.__name__, field_type.__name__)
    arguments = get_args(field_type)
    origin = get_origin(field_type)
    if origin is list:
        return f"a list of {_spell(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(_spell(argument) for argument in arguments) + "]"
    if all(isinstance(argument, str) for argument in arguments):
        return " | ".join(arguments)
    return " or ".join(_spell(argument) for argument in arguments)
