"""Where documents come from: files, shards of tokens, Hugging Face, this very Python.

A source is either indexed (`IndexedDocuments`: any document at once, so a global shuffle)
or a stream (`DocumentStream`: parts that are read from their start, shuffled within a
window). `open_documents` decides which from what a location names.
"""

from mta_jax.data.sources.documents import Document, DocumentStream, IndexedDocuments
from mta_jax.data.sources.in_memory import InMemoryDocuments, Subset
from mta_jax.data.sources.open import common_folder, named_by, open_documents
from mta_jax.data.sources.skips import NoSkips, Skips
from mta_jax.data.sources.texts import every_text

__all__ = [
    "Document",
    "DocumentStream",
    "InMemoryDocuments",
    "IndexedDocuments",
    "NoSkips",
    "Skips",
    "Subset",
    "common_folder",
    "every_text",
    "named_by",
    "open_documents",
]
