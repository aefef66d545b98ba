"""The input: opened as training would open it."""

from collections.abc import Sequence
from pathlib import Path

from mta_jax.data.needles import NEEDLES
from mta_jax.data.sources import IndexedDocuments, Skips, open_documents
from mta_jax.data.sources.array_records import read_manifest
from mta_jax.data.sources.files import find_files, format_of
from mta_jax.data.sources.open import NO_FILES
from mta_jax.errors import ConfigError
from mta_jax.prepare.units import Source


def opened(locations: Sequence[str], field: str, skips: Skips) -> Source:
    """Opens the input.

    Args:
      locations: files, folders, globs, data sets.
      field: of lines of JSON, parquet and Hugging Face, the field that holds the text.
      skips: counts what cannot be read.

    Raises:
      ConfigError: where a location names nothing, or what cannot be read.
      UserError: where files are damaged.
    """
    # Tokens are refused by `check`, so no tokenizer matters.
    source = open_documents(locations, field=field, tokenizer=("", 0), setting="input", skips=skips)
    is_empty = not (len(source) if isinstance(source, IndexedDocuments) else len(source.parts))
    if is_empty:
        raise ConfigError(f"input {', '.join(locations)}: holds no document")
    return source


def check(locations: Sequence[str], output: Path) -> None:
    """Makes sure that the input is text, and not what this command writes.

    Raises:
      ConfigError: where it is not.
      UserError: where a manifest in it cannot be read.
    """
    output = output.expanduser().resolve()
    for location in locations:
        if location.startswith(NEEDLES):
            raise ConfigError(
                f"input {location}: needles are drawn while a model trains; name them in "
                "data.text.domains"
            )
        if location.startswith(NO_FILES):
            continue
        folder = Path(location).expanduser()
        files = find_files(location, "input")
        if folder.is_dir() and output.is_relative_to(folder.resolve()):
            raise ConfigError(
                f"output {output}: lies in the input {location}; name a folder outside it"
            )
        inside = [path for path in files if path.resolve().is_relative_to(output)]
        if inside:
            raise ConfigError(f"input {location}: {inside[0]} lies in the output")
        for parent in {path.parent for path in files if format_of(path) == "array_record"}:
            if read_manifest(parent) is not None:
                raise ConfigError(
                    f"input {location}: {parent} holds tokens that were prepared; name the text"
                )
