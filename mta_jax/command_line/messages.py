"""Messages about settings: one line that names the field, the value and what would be right."""

import dataclasses
import difflib
import re
from typing import Any, get_args, get_origin, get_type_hints

_EMPTY = "''"
_YAML_WORDS = {"": _EMPTY, "None": "null", "True": "true", "False": "false"}


def one_line(message: str, config_class: type) -> str:
    """Rewrites a message of jsonargparse as "field value: what would be right"."""
    message = message.strip()
    name = _unknown_name(message)
    within = re.search(r"Parser key \"([\w.]+)\":\s+Problem with given class_path", message)
    if name:
        return unknown_setting(f"{within[1]}.*.{name}" if within else name, config_class)
    key = re.search(r"(?:Parser key|Key) [\"']([\w.]+)[\"']", message)
    unreadable = re.search(r"Parser key \"([\w.]+)\":\s+Unable to load config '(.*?)'", message)
    if unreadable:
        return f"{unreadable[1]} {unreadable[2] or _EMPTY}: expected a YAML file of this section"
    value = re.search(r"(?:Given|Got) value:[^\S\n]*(.*)", message)
    if key and value and key[1] in (types := field_types(config_class)):
        return f"{key[1]} {spell_value(value[1])}: expected {spell_type(types[key[1]])}"
    return _named_here(" ".join(message.split()), config_class)


def _named_here(message: str, config_class: type) -> str:
    """A message that begins with a setting, by the name that it has among these settings.

    A section that checks itself names its fields as they are in the settings of a run.
    """
    types, rest = field_types(config_class), message
    while (found := re.match(r"([a-z_]+)\.[\w.]+", rest)) and found[0] not in types:
        rest = rest.removeprefix(f"{found[1]}.")
    found = re.match(r"[\w.]+\.\w+", rest)
    return rest if found and found[0] in types else message


def unknown_setting(name: str, config_class: Any) -> str:
    """Says that there is no such setting, and which one may be meant.

    Args:
      name: the dotted name that was given.
      config_class: the dataclass of all settings.
    """
    section, _, field = name.rpartition(".")
    # Sections whose names are the user's have the fields of their kind.
    known = [
        other.replace(f"{parent}.*", section)
        for other in [*field_types(config_class), "config", "dry_run", "print_config"]
        for parent in [section.rpartition(".")[0]]
    ]
    # A command without dry runs may be given one.
    known = [other for other in known if other != name]
    siblings = {
        other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == section
    }
    if close := difflib.get_close_matches(field, siblings, n=1):
        hint = f"did you mean {siblings[close[0]]!r}?"
    elif moved := [other for other in known if other.rpartition(".")[2] == field]:
        hint = f"did you mean {moved[0]!r}?"
    elif section and siblings:
        hint = f"{section} has {', '.join(siblings)}"
    elif close := difflib.get_close_matches(name, known, n=1):
        hint = f"did you mean {close[0]!r}?"
    else:
        hint = "--help lists the settings"
    return f"unknown setting {name!r}; {hint}"


def spell_value(value: Any) -> str:
    """A value as it would stand in a YAML file."""
    return _YAML_WORDS.get(str(value), str(value))


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


def field_types(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all fields and their types."""
    types: dict[str, Any] = {}
    for name, field_type in get_type_hints(config_class).items():
        types[prefix + name] = field_type
        if dataclasses.is_dataclass(field_type):
            types |= field_types(field_type, f"{prefix}{name}.")
        elif item_class := item_class_of(field_type):
            types |= field_types(item_class, f"{prefix}{name}.*.")
    return types


def item_class_of(field_type: Any) -> Any:
    """The dataclass of sections by name, where a field holds such; else None."""
    arguments = get_args(field_type)
    if get_origin(field_type) is dict and dataclasses.is_dataclass(arguments[1]):
        return arguments[1]
    return None


def required_fields(config_class: Any) -> list[str]:
    """Fields of a dataclass that have no default."""
    fields = dataclasses.fields(config_class)
    return [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]


def spell_type(field_type: Any) -> str:
    """A type as a user would say it."""
    if isinstance(field_type, type) and not get_args(field_type):
        return {"NoneType": "null"}.get(field_type.__name__, field_type.__name__)
    arguments = get_args(field_type)
    origin = get_origin(field_type)
    if item_class := item_class_of(field_type):
        fields = ", ".join(field.name for field in dataclasses.fields(item_class))
        return f"sections by name, each with {fields}"
    if origin is list:
        return f"a list of {spell_type(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(spell_type(argument) for argument in arguments) + "]"
    if all(isinstance(argument, str) for argument in arguments):
        return " | ".join(arguments)
    return " or ".join(spell_type(argument) for argument in arguments)
