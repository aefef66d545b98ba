"""Every text that locations name, where a part of them would pass for all."""

from collections.abc import Iterator, Sequence

from mta_jax.data.sources.documents import Document, DocumentStream, IndexedDocuments
from mta_jax.data.sources.open import open_documents
from mta_jax.data.sources.skips import NoSkips


def every_text(locations: Sequence[str], *, field: str, setting: str) -> Iterator[tuple[str, str]]:
    """Name and text of each document, in order.

    Args:
      locations: files, folders, globs or ``hf:NAME``, as of `open_documents`.
      field: that holds the text, of JSON lines, parquet and Hugging Face.
      setting: that names the locations, for messages.

    Raises:
      ConfigError: where a location names nothing, or what holds no text.
      UserError: where a document cannot be read.
    """
    source = open_documents(
        locations, field=field, tokenizer=("", 0), setting=setting, skips=NoSkips(setting)
    )
    found = _of_stream(source) if isinstance(source, DocumentStream) else _of_index(source)
    for document in found:
        # Tokens belong to one tokenizer, and are refused where they are opened.
        assert isinstance(document.content, str)
        yield document.name, document.content


def _of_index(source: IndexedDocuments) -> Iterator[Document]:
    return (found for place in range(len(source)) if (found := source[place]))


def _of_stream(source: DocumentStream) -> Iterator[Document]:
    for part in range(len(source.parts)):
        for _, document in source.read(part, 0):
            if document:
                yield document
