"""Bytes to documents, and what is wrong where there is none."""

import json
from typing import Any

from mta_jax.data.sources.documents import Document
from mta_jax.data.sources.skips import Skips


def plain_text(name: str, content: bytes, skips: Skips) -> Document | None:
    """A document from UTF-8."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        skips.skip(name, f"no UTF-8 at byte {error.start}")
        return None
    return checked(name, text, skips)


def json_line(name: str, line: bytes, field: str, skips: Skips) -> Document | None:
    """A document from a line of JSON."""
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        skips.skip(name, f"no UTF-8 at byte {error.start} of the line")
        return None
    except (ValueError, RecursionError) as error:
        skips.skip(name, f"no JSON ({error})")
        return None
    return from_row(name, row, field, skips)


def from_row(name: str, row: Any, field: str, skips: Skips) -> Document | None:
    """A document from a row with named fields."""
    if not isinstance(row, dict):
        skips.skip(name, f"expected an object with the field {field!r}")
        return None
    if field not in row:
        skips.skip(name, f"no field {field!r} among {', '.join(map(repr, row)) or 'none'}")
        return None
    return checked(name, row[field], skips)


def checked(name: str, text: Any, skips: Skips) -> Document | None:
    """A document from what should be text."""
    if not isinstance(text, str):
        skips.skip(name, f"expected text, found {type(text).__name__}")
        return None
    if not text:
        skips.skip(name, "empty")
        return None
    skips.read()
    return Document(name, text)
