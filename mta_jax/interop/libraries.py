"""Libraries that only conversion needs."""

from typing import Any

from mta_jax.data.optional import optional_library
from mta_jax.errors import UserError


def library(name: str, *, needed_by: str) -> Any:
    """Imports a library.

    Args:
      name: of the module and of its package.
      needed_by: how the message of the error begins.

    Raises:
      UserError: where it cannot be imported; says how to install it.
    """
    try:
        return optional_library(name, needed_by=needed_by, extra="convert")
    except ValueError as error:
        raise UserError(str(error)) from None
