"""The output: whose it is, what is complete in it, and its manifest."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mta_jax.data.sources.array_records import FORMAT, MANIFEST, UNFINISHED, read_manifest
from mta_jax.errors import ConfigError, UserError
from mta_jax.files import TEMPORARY, locked, write_atomically
from mta_jax.prepare.shards import Piece
from mta_jax.prepare.units import Unit

_BEGUN = "begun.json"
_LOCK = "lock"

Identity = Mapping[str, Any]
"""What shards follow from: `settings`, `input` and `tokenizer`, each a mapping of plain values."""


def finished(folder: Path) -> dict[str, Any] | None:
    """The manifest of what was prepared in the folder; None where nothing or not all was.

    Raises:
      ConfigError: where the folder holds anything else; nothing in it is touched.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output {folder}: is a file; name a new or empty folder")
    if (folder / MANIFEST).is_file():
        return read_manifest(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / UNFINISHED).is_dir():
        raise ConfigError(
            f"output {folder}: is not empty, and nothing was prepared in it; name a new or empty "
            "folder"
        )
    return None


@contextlib.contextmanager
def begun(folder: Path) -> Iterator[None]:
    """Marks the folder as unfinished, and keeps other processes from it meanwhile.

    Raises:
      UserError: where another process is at work in it, or it cannot be written.
    """
    try:
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        lock = folder / UNFINISHED / _LOCK
        lock.touch()
    except OSError as error:
        raise UserError(f"output {folder}: cannot be written ({error.strerror})") from None
    complaint = (
        f"output {folder}: another process is preparing there; wait for it, or name another folder"
    )
    with locked(lock, complaint):
        for path in (folder / UNFINISHED).glob(f"*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        yield


def identity_there(folder: Path) -> Identity | None:
    """What the unfinished shards in a folder follow from; None where there are none yet."""
    return _read(folder / UNFINISHED / _BEGUN)


def write_identity(folder: Path, identity: Identity) -> None:
    """Says what the shards will follow from."""
    _write(folder / UNFINISHED / _BEGUN, identity)


def check_identity(folder: Path, there: Identity, here: Identity) -> None:
    """Makes sure that the folder holds what would be written into it.

    Args:
      folder: the folder.
      there: what its shards follow from.
      here: what those to be written follow from. The tokenizer may not be known yet.

    Raises:
      ConfigError: names what differs.
    """
    for section in ("settings", "input", "tokenizer"):
        for name, value in (here.get(section) or {}).items():
            before = there.get(section, {}).get(name)
            # A tokenizer's file may lie elsewhere now.
            if before == value or (section == "tokenizer" and name != "fingerprint"):
                continue
            if section == "tokenizer":
                name, before, value = "name", there[section]["name"], here[section]["name"]
                value = f"{value}, with other content" if before == value else value
            label = {"settings": name, "input": f"the input's {name}", "tokenizer": "tokenizer"}
            raise ConfigError(
                f"output {folder} holds text prepared otherwise: {label[section]} is "
                f"{_spelled(before)} there and {_spelled(value)} here; name another folder, or "
                "the same as before"
            )


def pieces_there(folder: Path, units: Sequence[Unit]) -> dict[int, list[Piece]]:
    """Complete pieces of each unit, in their order and without gaps."""
    there: dict[int, list[Piece]] = {}
    for unit in units:
        pieces: list[Piece] = []
        while not pieces or pieces[-1].following is not None:
            found = _read(folder / UNFINISHED / _piece_name(unit.number, len(pieces)))
            if found is None:
                break
            if found["following"] is not None:
                found["following"] = tuple(found["following"])
            piece = Piece(**found)
            if piece.file is not None:
                shard = folder / piece.file
                if not shard.is_file() or shard.stat().st_size != piece.size:
                    break
            pieces.append(piece)
        there[unit.number] = pieces
    return there


def write_piece(folder: Path, piece: Piece) -> None:
    """Says that a piece is complete."""
    _write(folder / UNFINISHED / _piece_name(piece.unit, piece.number), dataclasses.asdict(piece))


def write_manifest(
    folder: Path, identity: Identity, *, dtype: str, pieces: Sequence[Piece]
) -> dict[str, Any]:
    """Makes the folder one that training reads.

    Args:
      folder: the folder.
      identity: what the shards follow from.
      dtype: of tokens.
      pieces: all of them, in their order.

    Returns:
      The manifest.
    """
    shards = [
        {
            name: getattr(piece, name)
            for name in ("file", "size", "sha256", "documents", "tokens", "bytes")
        }
        for piece in pieces
        if piece.file is not None
    ]
    totals = {
        name: sum(getattr(piece, name) for piece in pieces)
        for name in ("documents", "tokens", "bytes", "skipped")
    }
    reasons = [reason for piece in pieces for reason in piece.reasons]
    manifest = {
        "format": FORMAT,
        "dtype": dtype,
        **identity,
        "totals": totals | {"shards": len(shards)},
        "skipped": reasons[:10],
        "shards": shards,
    }
    _write(folder / MANIFEST, manifest)
    return manifest


def tidy_up(folder: Path) -> None:
    """Removes what only an unfinished folder needs."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _spelled(value: Any) -> str:
    return "null" if value is None else str(value)


def _piece_name(unit: int, number: int) -> str:
    return f"{unit:06d}-{number:04d}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove the folder {path.parents[1]} and prepare "
            "the text again"
        ) from None


def _write(path: Path, content: Any) -> None:
    """So that a reader sees all of it or nothing."""
    unfinished = path.parent / UNFINISHED if path.name == MANIFEST else path.parent
    temporary = unfinished / f"{path.name}.{os.getpid()}{TEMPORARY}"
    write_atomically(path, json.dumps(content, indent=2) + "\n", temporary=temporary)
