"""`--section.NAME.field value`, where a section holds sections whose names are the user's.

jsonargparse replaces a whole section of that kind; here a field is changed and the rest
stays.
"""

import dataclasses
import json
import math
import types
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import yaml

from mta_jax.command_line.messages import item_class_of, required_fields, unknown_setting

Changes = dict[str, dict[str, dict[str, Any]]]
"""Section, name in it, field: value."""


def take_changes(arguments: Sequence[str], config_class: Any) -> tuple[list[str], Changes]:
    """Takes such arguments out of a command line.

    Args:
      arguments: the command line.
      config_class: the dataclass of all settings.

    Returns:
      What is left of the command line, and what was taken.

    Raises:
      ValueError: for a field that does not exist.
    """
    sections = _sections(config_class)
    rest: list[str] = []
    changes: Changes = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        section = next((s for s in sections if flag.startswith(f"--{s}.")), None)
        # jsonargparse's own, which explains the fields.
        if section is None or flag == f"--{section}.help":
            rest.append(argument)
            continue
        name, _, field = flag.removeprefix(f"--{section}.").partition(".")
        if field not in (known.name for known in dataclasses.fields(sections[section])):
            raise ValueError(unknown_setting(flag.removeprefix("--"), config_class))
        if not equals:
            if not waiting:
                raise ValueError(f"{flag.removeprefix('--')}: expected a value")
            value = waiting.pop(0)
        parsed = _parsed(value, get_type_hints(sections[section])[field])
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise ValueError(f"{flag.removeprefix('--')} {parsed}: must be finite")
        changes.setdefault(section, {}).setdefault(name, {})[field] = parsed
    return rest, changes


def _parsed(value: str, field_type: Any) -> Any:
    """The value of a field: text as it is where that is meant, else as YAML has it."""
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    takes_text = str in (field_type, *get_args(field_type))
    return value if takes_text and not isinstance(parsed, list | types.NoneType) else parsed


def as_arguments(changes: Changes, values: Any, config_class: Any) -> list[str]:
    """The whole of each changed section, for a second parse.

    Args:
      changes: what to change.
      values: the settings without the changes, as jsonargparse has them before it makes
        a config of them.
      config_class: the dataclass of all settings.

    Raises:
      ValueError: where a new name lacks what it must have.
    """
    arguments = []
    for section, names in changes.items():
        required = required_fields(_sections(config_class)[section])
        items = {name: dict(vars(item)) for name, item in values[section].items()}
        for name, fields in names.items():
            items[name] = items.get(name, {}) | fields
            for field in required:
                if field not in items[name]:
                    raise ValueError(f"{section}.{name}.{field} is missing")
        arguments += [f"--{section}", json.dumps(items)]
    return arguments


def _sections(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of such sections, and the dataclass of what they hold."""
    found: dict[str, Any] = {}
    for name, field_type in get_type_hints(config_class).items():
        if item_class := item_class_of(field_type):
            found[prefix + name] = item_class
        elif dataclasses.is_dataclass(field_type):
            found |= _sections(field_type, f"{prefix}{name}.")
    return found
