"""Data sets of the Hugging Face hub, or of a local folder in its layout, streamed.

The position is this module's own, a shard and a row: the library's saved states went
wrong on a second restart (https://github.com/huggingface/datasets/issues/8308).
"""

import itertools
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from mta_jax.data.sources import text_of
from mta_jax.data.sources.documents import Document, summarize
from mta_jax.data.sources.files import import_library
from mta_jax.data.sources.skips import Skips
from mta_jax.errors import ConfigError, UserError

PREFIX = "hf:"


class HuggingFaceStream:
    """One data set. Each of its shards is a part.

    Args:
      location: ``hf:NAME``, and after a ``?`` options of `datasets.load_dataset`, such as
        ``hf:allenai/c4?name=en&split=validation``; the split is train unless given.
      field: the column that holds the text.
      setting: that names it, for messages.
      skips: counts what cannot be read.

    Raises:
      ConfigError: where it cannot be opened.
    """

    def __init__(self, location: str, field: str, setting: str, skips: Skips):
        datasets = import_library("datasets", f"{setting} {location}")
        self._location = location
        self._field = field
        self._skips = skips
        name, _, query = location.removeprefix(PREFIX).partition("?")
        options = {"split": "train"} | dict(urllib.parse.parse_qsl(query))
        if not name:
            raise ConfigError(f"{setting} {location}: expected hf:NAME, such as hf:allenai/c4")
        try:
            self._dataset = datasets.load_dataset(name, streaming=True, **options)
            count = self._dataset.num_shards
        # The hub, the network, a loader and its arguments: whatever it is, it is this line.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{setting} {location}: cannot be opened ({reason})") from None
        columns = self._dataset.column_names
        if columns and field not in columns:
            raise ConfigError(
                f"{setting} {location}: no column {field!r}; it has {', '.join(columns)}"
            )
        self.parts = [f"{location} (shard {shard})" for shard in range(count)]
        self.rows = [None] * count

    def read(self, part: int, start: int) -> Iterator[tuple[str, Document | None]]:
        """Rows of a shard from `start` on."""
        shard = self._dataset.shard(num_shards=len(self.parts), index=part)
        if start:
            shard = shard.skip(start)
        rows = iter(shard)
        for number in itertools.count(start):
            name = f"{self._location}:{part}:{number}"
            try:
                row = next(rows, None)
            # The network, a file of the data set: whatever it is, it is this line.
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"{name}: cannot be read ({reason})") from None
            if row is None:
                return
            yield name, text_of.from_row(name, row, self._field, self._skips)

    def summary(self) -> Mapping[str, Any]:
        """Of the name and the number of shards; the hub tells no more."""
        return summarize([(self._location, len(self.parts))], documents=None)
