"""From settings to a folder of shards."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mta_jax.data.tokenizers import Tokenizer
from mta_jax.errors import UserError
from mta_jax.prepare import folder as folders
from mta_jax.prepare import inputs, pool, report, vocabulary
from mta_jax.prepare.config import PrepareConfig
from mta_jax.prepare.progress import ProgressLine
from mta_jax.prepare.shards import Piece
from mta_jax.prepare.tally import Tally, check_share
from mta_jax.prepare.units import Source, units_of
from mta_jax.prepare.worker import Job

# Each is one line; the rest is counted.
_REPORTED = 10
_LARGEST_UINT16 = 2**16


def prepare(config: PrepareConfig) -> None:
    """Makes the shards that are not there yet, then the manifest; prints how it goes.

    Raises:
      ConfigError: where a setting is wrong, or the output holds something else.
      UserError: where a file is damaged or cannot be written, too many documents cannot be
        read, or a worker was ended.
      OSError: where a file cannot be read or written.
    """
    output = Path(config.output).expanduser()
    manifest = folders.finished(output)
    is_learned = config.train_tokenizer.vocab_size is not None
    tokenizer = None if is_learned else vocabulary.load(config)
    inputs.check(config.locations, output)
    tally = Tally(config.max_skipped, expected=None)
    source = inputs.opened(config.locations, config.field, tally)
    identity = _identity(config, source, tokenizer)
    if manifest is not None:
        folders.check_identity(output, manifest, identity)
        if is_learned:
            identity["tokenizer"] = _described(config, vocabulary.load(config))
            folders.check_identity(output, manifest, identity)
        folders.tidy_up(output)
        print(f"{output} is complete; nothing is left to do")
        report.show(config, manifest)
        return
    with folders.begun(output):
        manifest, effort = _continue(config, output, source, identity, tokenizer)
    folders.tidy_up(output)
    report.show(config, manifest, effort)


def _identity(config: PrepareConfig, source: Source, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What the shards follow from."""
    return {
        "settings": {
            "input": config.locations,
            "field": config.field,
            **{
                f"train_tokenizer.{name}": value
                for name, value in dataclasses.asdict(config.train_tokenizer).items()
            },
            "shard_documents": config.shard_documents,
        },
        "input": dict(source.summary()),
        "tokenizer": None if tokenizer is None else _described(config, tokenizer),
    }


def _described(config: PrepareConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    is_learned = config.train_tokenizer.vocab_size is not None
    return {
        "name": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "file": vocabulary.LEARNED if is_learned else config.tokenizer,
    }


def _continue(
    config: PrepareConfig,
    output: Path,
    source: Source,
    identity: dict[str, Any],
    tokenizer: Tokenizer | None,
) -> tuple[dict[str, Any], report.Effort]:
    """Does what is left; returns the manifest, and what that took."""
    there = folders.identity_there(output)
    if there is not None:
        folders.check_identity(output, there, identity)
    if tokenizer is None:
        tokenizer = _learned(config, output, source, may_be_there=there is not None)
        identity["tokenizer"] = _described(config, tokenizer)
        if there is not None:
            folders.check_identity(output, there, identity)
    if there is None:
        folders.write_identity(output, identity)
    dtype = "uint16" if tokenizer.vocab_size <= _LARGEST_UINT16 else "uint32"
    job = Job(
        locations=config.locations,
        field=config.field,
        tokenizer=vocabulary.location_of(config),
        bos_token=config.bos_token,
        eos_token=config.eos_token,
        dtype=dtype,
        output=output,
        shard_documents=config.shard_documents,
        max_skipped=config.max_skipped,
        expected=identity["input"]["documents"],
    )
    pieces, effort = _all_pieces(config, job, source)
    if not any(piece.documents for piece in pieces):
        reason = next((reason for piece in pieces for reason in piece.reasons), None)
        found = f"the first that cannot be read: {reason}" if reason else "it is empty"
        raise UserError(f"input {', '.join(config.locations)}: holds no document; {found}")
    manifest = folders.write_manifest(output, identity, dtype=dtype, pieces=pieces)
    return manifest, effort


def _learned(
    config: PrepareConfig, output: Path, source: Source, *, may_be_there: bool
) -> Tokenizer:
    """The tokenizer of the input, learned unless that was done before."""
    # Whatever lies there before the settings do may have been learned with others.
    if not (may_be_there and (output / vocabulary.LEARNED).is_file()):
        settings = config.train_tokenizer
        print(
            f"learning {settings.vocab_size:,} tokens from up to "
            f"{settings.sample_documents:,} documents",
            flush=True,
        )
        vocabulary.learn(config, source)
    return vocabulary.load(config)


def _all_pieces(
    config: PrepareConfig, job: Job, source: Source
) -> tuple[list[Piece], report.Effort]:
    """Does what is left; returns all pieces in order, and what that took."""
    units = units_of(source, config.shard_documents)
    there = folders.pieces_there(job.output, units)
    tasks = [
        (unit, there[unit.number])
        for unit in units
        if not (pieces := there[unit.number]) or pieces[-1].following is not None
    ]
    pieces = [piece for found in there.values() for piece in found]
    with ProgressLine(len(units), done=len(units) - len(tasks)) as progress:
        if pieces:
            documents = sum(piece.documents for piece in pieces)
            progress.message(f"continues; {documents:,} documents are done")
        skipped = _Skipped(config, job.expected, progress)
        skipped.add(pieces)

        def on_pieces(new: Sequence[Piece]) -> None:
            pieces.extend(new)
            progress.unit_done()
            skipped.add(new)

        pool.run(
            job,
            tasks,
            _num_workers(config.workers),
            on_pieces=on_pieces,
            report=progress.add,
        )
        skipped.check(expected=None)
    effort = report.Effort(progress.seconds, progress.bytes)
    return sorted(pieces, key=lambda piece: (piece.unit, piece.number)), effort


class _Skipped:
    """Unreadable documents of all pieces so far: reported, and borne up to a share."""

    def __init__(self, config: PrepareConfig, expected: int | None, progress: ProgressLine):
        self._max_share = config.max_skipped
        self._expected = expected
        self._progress = progress
        self._num_read = 0
        self._files: collections.Counter[str] = collections.Counter()
        self._reasons: list[str] = []

    def add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._num_read += piece.documents
            self._files.update(piece.skipped_in)
            for reason in piece.reasons[: max(0, _REPORTED - len(self._reasons))]:
                self._progress.message(f"{reason}; skipped")
            self._reasons += piece.reasons
        self.check(self._expected)

    def check(self, expected: int | None) -> None:
        check_share(
            self._num_read,
            self._files,
            self._reasons,
            max_share=self._max_share,
            expected=expected,
        )


def _num_workers(asked: int | None) -> int:
    if asked is not None:
        return asked
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
