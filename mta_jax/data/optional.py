"""Optional libraries, imported when they are needed."""

import importlib
from typing import Any


def optional_library(name: str, *, needed_by: str, extra: str = "data") -> Any:
    """Imports an optional library.

    Args:
      name: of the module and of its package.
      needed_by: how the message of the error begins.
      extra: of this package that brings it.

    Raises:
      ValueError: where it cannot be imported; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{needed_by}: needs the library {name} ({error}): pip install 'mta-jax[{extra}]'"
        ) from None
