"""Files that are read from their start: compressed lines, and parquet by its row groups."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mta_jax.data.sources import text_of
from mta_jax.data.sources.documents import Document, DocumentStream, sizes_of, summarize
from mta_jax.data.sources.files import (
    damage_reported,
    format_of,
    import_library,
    open_bytes,
)
from mta_jax.data.sources.indexed import combined
from mta_jax.data.sources.skips import Skips
from mta_jax.errors import UserError

_ROWS_AT_ONCE = 1_000

Row = tuple[str, Document | None]


class LineStream:
    """Files of one JSON object per line, or of one text each. Each file is a part.

    Args:
      paths: the files, compressed or not.
      field: of each line, the field that holds the text.
      skips: counts what cannot be read.
    """

    def __init__(self, paths: Sequence[Path], field: str, skips: Skips):
        self._paths = paths
        self._field = field
        self._skips = skips
        self.parts = [str(path) for path in paths]
        self.rows = [1 if format_of(path) == "txt" else None for path in paths]

    def read(self, part: int, start: int) -> Iterator[Row]:
        """Rows of a file from line `start` on, counted from 0."""
        path = self._paths[part]
        with damage_reported(path), open_bytes(path) as file:
            if format_of(path) == "txt":
                if not start:
                    yield str(path), text_of.plain_text(str(path), file.read(), self._skips)
                return
            for number, line in enumerate(file):
                if number < start:
                    continue
                name = f"{path}:{number + 1}"
                if line.strip():
                    yield name, text_of.json_line(name, line, self._field, self._skips)
                else:
                    yield name, None

    def summary(self) -> Mapping[str, Any]:
        """Of names and sizes."""
        return summarize(sizes_of(self._paths), documents=None)


class ParquetStream:
    """Parquet files. Each row group is a part.

    Args:
      paths: the files.
      field: the column that holds the text.
      setting: that names the files, for messages.
      skips: counts what cannot be read.

    Raises:
      UserError: where a file is no parquet, or has no such column.
    """

    def __init__(self, paths: Sequence[Path], field: str, setting: str, skips: Skips):
        self._paths = paths
        self._field = field
        self._skips = skips
        self._groups = []
        num_rows: list[int | None] = []
        for path in paths:
            metadata = _parquet(path).metadata
            names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
            if field not in names:
                raise UserError(
                    f"{setting}: {path} has no column {field!r}; it has {', '.join(names)}"
                )
            groups = range(metadata.num_row_groups)
            self._groups += [(path, group) for group in groups]
            num_rows += [metadata.row_group(group).num_rows for group in groups]
        self.parts = [f"{path} (row group {group})" for path, group in self._groups]
        self.rows = num_rows

    def read(self, part: int, start: int) -> Iterator[Row]:
        """Rows of a row group from `start` on."""
        path, group = self._groups[part]
        number = 0
        with damage_reported(path, ValueError):
            batches = _parquet(path).iter_batches(
                batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[self._field]
            )
            for batch in batches:
                column = batch.column(0)
                for index in range(max(start - number, 0), len(column)):
                    name = f"{path}:{group}:{number + index}"
                    try:
                        text = column[index].as_py()
                    except UnicodeDecodeError as error:
                        self._skips.skip(name, f"no UTF-8 at byte {error.start}")
                        yield name, None
                    else:
                        yield name, text_of.checked(name, text, self._skips)
                number += len(column)

    def summary(self) -> Mapping[str, Any]:
        """Of names and sizes."""
        return summarize(sizes_of(self._paths), documents=sum(rows or 0 for rows in self.rows))


@functools.lru_cache(maxsize=8)
def _parquet(path: Path) -> Any:
    parquet = import_library("pyarrow.parquet", path)
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as parquet ({error})") from None


class ConcatenatedStreams:
    """Several streams as one.

    Args:
      streams: at least one.
    """

    def __init__(self, streams: Sequence[DocumentStream]):
        self._streams = streams
        self._parts = [(stream, part) for stream in streams for part in range(len(stream.parts))]
        self.parts = [name for stream in streams for name in stream.parts]
        self.rows = [rows for stream in streams for rows in stream.rows]

    def read(self, part: int, start: int) -> Iterator[Row]:
        """Rows of a part from `start` on."""
        stream, own_part = self._parts[part]
        return stream.read(own_part, start)

    def summary(self) -> Mapping[str, Any]:
        """Of all streams."""
        return combined([stream.summary() for stream in self._streams])
