"""Texts of an evaluation, every one of which must be readable."""

import itertools
from collections.abc import Iterator, Sequence

from mta_jax.data.sources import (
    Document,
    DocumentStream,
    IndexedDocuments,
    NoSkips,
    open_documents,
)
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
    source = open_documents(
        locations, field=field, tokenizer=("", 0), setting=setting, skips=NoSkips(setting)
    )
    documents = _of_stream(source) if isinstance(source, DocumentStream) else _of_index(source)
    texts = []
    for document in itertools.islice(documents, limit):
        # Tokens belong to one tokenizer, and are refused where they are opened.
        assert isinstance(document.content, str)
        texts.append((document.name, document.content))
    if not texts:
        raise UserError(f"{setting} {', '.join(locations)}: holds no text")
    return texts


def _of_index(source: IndexedDocuments) -> Iterator[Document]:
    return (found for place in range(len(source)) if (found := source[place]))


def _of_stream(source: DocumentStream) -> Iterator[Document]:
    for part in range(len(source.parts)):
        for _, document in source.read(part, 0):
            if document:
                yield document
