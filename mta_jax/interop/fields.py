"""Settings of another library as they stand in its JSON file."""

import json
from pathlib import Path
from typing import Any

from mta_jax.errors import ConfigError, UserError

_MISSING = object()


class Fields:
    """The fields of a section, with messages that name them.

    Args:
      values: the section.
      where: the file, for messages.
      prefix: what the names of its fields begin with, for messages.
    """

    def __init__(self, values: dict[str, Any], where: str, prefix: str = ""):
        self.values = values
        self.where = where
        self._prefix = prefix

    @classmethod
    def read(cls, path: Path) -> "Fields":
        """The fields of a file.

        Raises:
          UserError: where it is no JSON object.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not valid JSON ({' '.join(str(error).split())})") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: expected settings by name")
        return cls(values, str(path))

    def section(self, name: str) -> "Fields":
        """A section of these; an empty one where there is none."""
        values = self.get(name, dict, default={})
        return Fields(values, self.where, f"{self._prefix}{name}.")

    def get(self, name: str, kind: Any, default: Any = _MISSING) -> Any:
        """The value of a field; null is none.

        Args:
          name: of the field.
          kind: its type, or several; whole numbers pass for float.
          default: the value where there is none; without one there must be one.

        Raises:
          ConfigError: where it is missing or of another type.
        """
        value = self.values.get(name)
        if value is None:
            if default is _MISSING:
                raise ConfigError(f"{self.where}: {self._prefix}{name} is missing")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float)):
            expected = getattr(kind, "__name__", str(kind))
            raise self.refused(name, f"expected a value of type {expected}")
        return value

    def refused(self, name: str, reason: str) -> ConfigError:
        """An error about a field and its value."""
        value = json.dumps(self.values.get(name))
        if len(value) > 80:
            value = f"{value[:77]}..."
        return ConfigError(f"{self.where}: {self._prefix}{name} {value}: {reason}")

    def refuse(self, name: str, *allowed: Any, reason: str) -> None:
        """Refuses a field whose value is none of those allowed; missing and null are.

        Raises:
          ConfigError: where it has another value.
        """
        value = self.values.get(name)
        if value is not None and value not in allowed:
            raise self.refused(name, reason)
