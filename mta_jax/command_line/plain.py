"""Configs as plain values, and back."""

import dataclasses
import types
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from mta_jax.errors import UserError

Config = TypeVar("Config")


def plain(value: Any) -> Any:
    """A config as dictionaries, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def to_yaml(config: Any) -> str:
    """The config as a file that `--config` reads back."""
    return yaml.safe_dump(plain(config), sort_keys=False)


def from_plain(config_class: type[Config], values: Any, where: str) -> Config:
    """The config that `plain` made these values of.

    Settings that the values lack, because they are newer, have their defaults.

    Args:
      config_class: its dataclass.
      values: what `plain` returned.
      where: what they were read from, for messages.

    Raises:
      UserError: where they are not a config of this version.
    """
    try:
        return _built(config_class, values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: not the settings of a run ({error})") from None


def _built(kind: Any, value: Any) -> Any:
    """A value of a type, from plain values."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        # An unknown setting is the constructor's TypeError.
        fields = {name: _built(hints.get(name), item) for name, item in value.items()}
        return cast(type, kind)(**fields)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        # Only one alternative of ours holds anything but scalars and lists of them.
        nested = [a for a in get_args(kind) if get_origin(a) in (tuple, dict)]
        return _built(nested[0], value) if nested and isinstance(value, list | dict) else value
    if origin is tuple:
        return tuple(value)
    if origin is dict:
        item_kind = get_args(kind)[1]
        return {name: _built(item_kind, item) for name, item in value.items()}
    return value
