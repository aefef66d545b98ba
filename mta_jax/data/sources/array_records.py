"""ArrayRecord shards: of tokens, as `python -m mta_jax.prepare` writes them, or of text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from mta_jax.data.sources import text_of
from mta_jax.data.sources.documents import Document, sizes_of, summarize
from mta_jax.data.sources.skips import Skips
from mta_jax.errors import ConfigError, UserError

MANIFEST = "prepared.json"
# What `prepare` keeps in its folder until the manifest is there.
UNFINISHED = ".preparing"
FORMAT = "mta_jax tokens 1"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `prepare` wrote about its shards; None where it did not write them.

    Raises:
      UserError: where it cannot be read, or they are not all there yet.
    """
    path = folder / MANIFEST
    if not path.is_file():
        # Its tokens would be taken for text.
        if (folder / UNFINISHED).is_dir():
            raise UserError(
                f"{folder}: prepare has not finished it; give the same command again, which "
                "continues it"
            )
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, expected {FORMAT!r}")
        manifest["tokenizer"]["fingerprint"], np.dtype(manifest["dtype"]), manifest["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what prepare writes ({error}); prepare it again") from None
    return manifest


class ArrayRecords:
    """One document per record, in files of one folder.

    Records are tokens where the folder has a manifest, else UTF-8 text.

    Args:
      folder: the folder.
      paths: files in it.
      tokenizer: fingerprint and size of the vocabulary that tokens must be of.
      field: the setting that names the files, for messages.
      skips: counts what cannot be read.

    Raises:
      ConfigError: where the tokens are those of another tokenizer.
      UserError: where a shard is not as it was written.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        tokenizer: tuple[str, int],
        field: str,
        skips: Skips,
    ):
        self._paths = paths
        self._skips = skips
        manifest = read_manifest(folder)
        fingerprint, self._vocab_size = tokenizer
        self._dtype = None
        if manifest is not None:
            made_with = manifest["tokenizer"]
            if made_with["fingerprint"] != fingerprint:
                raise ConfigError(
                    f"{field} {folder}: its tokens were made with the tokenizer "
                    f"{made_with.get('name')!r}, which is not the one of data.text.tokenizer; set "
                    "that one, or prepare the text again"
                )
            self._dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
            _check_shards(folder, paths, manifest)
        for path in paths:
            try:
                grain.sources.ArrayRecordDataSource([str(path)])
            except Exception as error:
                raise UserError(f"{field}: {path}: not readable as ArrayRecord ({error})") from None
        self._records = grain.sources.ArrayRecordDataSource([str(path) for path in paths])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Document | None:
        try:
            record = self._records[index]
        except Exception as error:
            raise UserError(f"{self.name(index)}: cannot be read ({error})") from None
        if self._dtype is None:
            return text_of.plain_text(self.name(index), record, self._skips)
        tokens = np.frombuffer(record, self._dtype)
        if not len(tokens):
            self._skips.skip(self.name(index), "empty")
            return None
        if (largest := int(tokens.max())) >= self._vocab_size:
            raise UserError(
                f"{self.name(index)}: token {largest} is beyond the vocabulary of "
                f"{self._vocab_size:,}; prepare the text again"
            )
        self._skips.read()
        return Document(self.name(index), tokens)

    def name(self, index: int) -> str:
        """The folder and the number of the record in all files."""
        return f"{self._paths[0].parent}:{index}"

    def summary(self) -> Mapping[str, Any]:
        """Of names and sizes."""
        return summarize(sizes_of(self._paths), documents=len(self))


def _check_shards(folder: Path, paths: Sequence[Path], manifest: Mapping[str, Any]) -> None:
    """Makes sure that shards have the sizes that they were written with."""
    expected = {shard["file"]: shard["size"] for shard in manifest["shards"]}
    there = {path.name: path.stat().st_size for path in paths}
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(expected)} shards are missing, the first is "
            f"{missing[0]}; restore them, or prepare the text again"
        )
    for name, size in there.items():
        if name not in expected:
            raise UserError(f"{folder / name}: not one of the shards that {MANIFEST} lists")
        if size != expected[name]:
            raise UserError(
                f"{folder / name}: has {size:,} bytes and was written with {expected[name]:,}; "
                "restore it, or prepare the text again"
            )
