"""From what a setting names to a source."""

import collections
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mta_jax.data.sources import standard_library
from mta_jax.data.sources.array_records import ArrayRecords
from mta_jax.data.sources.documents import Document, DocumentStream, IndexedDocuments
from mta_jax.data.sources.files import find_files, format_of, is_compressed
from mta_jax.data.sources.hugging_face import PREFIX, HuggingFaceStream
from mta_jax.data.sources.in_memory import InMemoryDocuments
from mta_jax.data.sources.indexed import Concatenated, JsonLines, TextFiles
from mta_jax.data.sources.skips import Skips
from mta_jax.data.sources.streams import ConcatenatedStreams, LineStream, ParquetStream
from mta_jax.errors import ConfigError

NO_FILES = ("python:", "needles:", PREFIX)
_PYTHON: Mapping[str, Callable[[], Sequence[Document]]] = {
    "python:code": standard_library.code,
    "python:docs": standard_library.docs,
    "python:docstrings": standard_library.docstrings,
}


def named_by(locations: Sequence[str], setting: str) -> set[str]:
    """All that locations name: files by their real paths, anything else as it is written.

    Args:
      locations: as of `open_documents`.
      setting: that names them, for messages.
    """
    names: set[str] = set()
    for location in locations:
        if location.startswith(NO_FILES):
            names.add(location)
        else:
            names |= {str(file.resolve()) for file in find_files(location, setting)}
    return names


def common_folder(locations: Sequence[str], setting: str) -> str:
    """The beginning that the names of all documents share, as far as their place decides it.

    Args:
      locations: as of `open_documents`.
      setting: that names them, for messages.

    Returns:
      The folder that all files are in, with a separator behind it; "" where there is none.
    """
    files = [
        file
        for location in locations
        if not location.startswith(NO_FILES)
        for file in find_files(location, setting)
    ]
    return os.path.join(os.path.commonpath([file.parent for file in files]), "") if files else ""


def open_documents(
    locations: Sequence[str],
    *,
    field: str,
    tokenizer: tuple[str, int],
    setting: str,
    skips: Skips,
) -> IndexedDocuments | DocumentStream:
    """Opens all that the locations name, as one source.

    It is indexed unless one of them is a Hugging Face data set, parquet, or compressed
    lines.

    Args:
      locations: each a file, a folder, a glob, ``hf:NAME?OPTIONS``, or what every Python
        carries: ``python:code``, ``python:docs`` and ``python:docstrings``.
      field: of lines of JSON, parquet and Hugging Face, the field that holds the text.
      tokenizer: fingerprint and size of the vocabulary, which tokens in files must be of.
      setting: that names the locations, for messages.
      skips: counts what cannot be read.

    Raises:
      ConfigError: where a location names nothing, or what cannot be read.
      UserError: where files are damaged.
    """
    indexed: list[IndexedDocuments] = []
    streams: list[DocumentStream] = []
    files: list[Path] = []
    for location in locations:
        if location.startswith("python:"):
            if location not in _PYTHON:
                known = ", ".join(_PYTHON)
                raise ConfigError(f"{setting} {location}: Python itself has {known}")
            try:
                indexed.append(InMemoryDocuments(_PYTHON[location]()))
            except FileNotFoundError as error:
                raise ConfigError(f"{setting} {location}: {error}") from None
        elif location.startswith(PREFIX):
            streams.append(HuggingFaceStream(location, field, setting, skips))
        else:
            files += find_files(location, setting)
    twice = [path for path, count in collections.Counter(files).items() if count > 1]
    if twice:
        raise ConfigError(f"{setting} {', '.join(locations)}: names {twice[0]} twice")

    of_format = {
        name: [path for path in files if format_of(path) == name]
        for name in ("txt", "jsonl", "parquet", "array_record")
    }
    if parquet := of_format["parquet"]:
        streams.append(ParquetStream(parquet, field, setting, skips))
    for folder in sorted({path.parent for path in of_format["array_record"]}):
        own = [path for path in of_format["array_record"] if path.parent == folder]
        indexed.append(ArrayRecords(folder, own, tokenizer, setting, skips))
    lines, texts = of_format["jsonl"], of_format["txt"]
    if streams or any(map(is_compressed, lines)):
        if indexed:
            raise ConfigError(
                f"{setting} {', '.join(locations)}: joins a stream (compressed lines, parquet, "
                "Hugging Face) with ArrayRecord or Python's text; make them domains of their own"
            )
        if lines + texts:
            streams.append(LineStream(lines + texts, field, skips))
        return streams[0] if len(streams) == 1 else ConcatenatedStreams(streams)
    if texts:
        indexed.append(TextFiles(texts, skips))
    indexed += [JsonLines(path, field, skips) for path in lines]
    return indexed[0] if len(indexed) == 1 else Concatenated(indexed)
