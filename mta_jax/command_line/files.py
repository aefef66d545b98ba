"""What is wrong with a settings file as a whole, which jsonargparse does not say."""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from mta_jax.command_line.messages import (
    item_class_of,
    required_fields,
    spell_type,
    spell_value,
    unknown_setting,
)


class _Loader(yaml.SafeLoader):
    """Refuses a name that is given twice, where YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue
            if name.value in names:
                line = name.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"{name.value!r} is there twice, again in line {line}"
                )
            names.add(name.value)
        return super().construct_mapping(node, deep)


def complaint_about(file: str, config_class: Any) -> str | None:
    """What is wrong with a file of settings, or None.

    Args:
      file: its path.
      config_class: the dataclass that it fills in.
    """
    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return f"not valid YAML ({' '.join(str(error).split())})"
    except RecursionError:
        return "not valid YAML (nested too deeply)"
    if not isinstance(content, dict):
        return "expected settings by name"
    # `--print_config` writes this one too.
    content.pop("dry_run", None)
    return _complaint_about_section(content, config_class, config_class, "")


def _complaint_about_section(
    content: dict[Any, Any], section_class: Any, config_class: Any, prefix: str
) -> str | None:
    types = get_type_hints(section_class)
    for name, value in content.items():
        if name not in types:
            return unknown_setting(f"{prefix}{name}", config_class)
        item_class = item_class_of(types[name])
        if not dataclasses.is_dataclass(types[name]) and item_class is None:
            if value is None and type(None) not in get_args(types[name]):
                return f"{prefix}{name} null: expected {spell_type(types[name])}"
            continue
        if not isinstance(value, dict):
            return f"{prefix}{name} {spell_value(value)}: expected a section of settings"
        if item_class is None:
            inner = _complaint_about_section(value, types[name], config_class, f"{prefix}{name}.")
        else:
            inner = _complaint_about_items(value, item_class, config_class, f"{prefix}{name}.")
        if inner:
            return inner
    return None


def _complaint_about_items(
    content: dict[Any, Any], item_class: Any, config_class: Any, prefix: str
) -> str | None:
    """Of sections whose names are the user's."""
    for name, value in content.items():
        if not isinstance(value, dict):
            return f"{prefix}{name} {spell_value(value)}: expected a section of settings"
        inner = _complaint_about_section(value, item_class, config_class, f"{prefix}{name}.")
        if inner:
            return inner
        for field in required_fields(item_class):
            if field not in value:
                return f"{prefix}{name}.{field} is missing"
    return None
