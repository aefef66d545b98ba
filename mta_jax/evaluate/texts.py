"""Texts of an evaluation, every one of which must be readable."""

import itertools
from collections.abc import Sequence

from mta_jax.data.sources import every_text
from mta_jax.errors import UserError


def read_texts(
    locations: Sequence[str], *, field: str, setting: str, limit: int | None = None
) -> list[tuple[str, str]]:
    """All texts that locations name.

    Args:
      locations: files, folders, globs or ``hf:NAME``, as of `open_documents`.
      field: that holds the text, of JSON lines, parquet and Hugging Face.
      setting: that names the locations, for messages.
      limit: reads only so many.

    Returns:
      Name and text of each, in order.

    Raises:
      ConfigError: where a location names nothing, or what holds no text.
      UserError: where one cannot be read, or there are none.
    """
    found = every_text(locations, field=field, setting=setting)
    texts = list(itertools.islice(found, limit))
    if not texts:
        raise UserError(f"{setting} {', '.join(locations)}: holds no text")
    return texts
