"""Units done by this process, or shared out to several."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

from mta_jax.errors import UserError
from mta_jax.prepare.shards import Piece
from mta_jax.prepare.units import Unit
from mta_jax.prepare.worker import Job, Report, Worker

# Seconds between two looks at what the others have done.
_INTERVAL = 0.2

Task = tuple[Unit, Sequence[Piece]]
"""A unit, and its first pieces, which are complete."""


def run(
    job: Job,
    tasks: Sequence[Task],
    workers: int,
    *,
    on_pieces: Callable[[Sequence[Piece]], None],
    report: Report,
) -> None:
    """Does all tasks.

    Args:
      job: what they are part of.
      tasks: in any order.
      workers: processes; with 1 none is started.
      on_pieces: takes the pieces of each unit that is done; what it raises ends the rest.
      report: is told from time to time what else was done.

    Raises:
      UserError: where a unit cannot be done, or a process was ended from outside.
      OSError: where a file cannot be read or written.
    """
    if not tasks:
        return
    if workers == 1:
        worker = Worker(job, report)
        for unit, done in tasks:
            on_pieces(worker.do(unit, done))
        return
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 3)
    stop = context.RawValue("b", 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=context,
        initializer=_start,
        initargs=(job, counts, stop),
    )
    try:
        with _without_interrupts():
            pending = {executor.submit(_do, unit, done) for unit, done in tasks}
        told = [0, 0, 0]
        while pending:
            finished, pending = concurrent.futures.wait(
                pending, _INTERVAL, return_when=concurrent.futures.FIRST_COMPLETED
            )
            # A process that was killed may have held the lock.
            now = list(counts.get_obj())
            report(*(new - old for new, old in zip(now, told, strict=True)))
            told = now
            for future in finished:
                on_pieces(future.result())
    except BrokenProcessPool:
        raise UserError(
            "a worker was ended from outside, perhaps for want of memory; the same command "
            f"continues, with fewer than {workers} workers if you like"
        ) from None
    finally:
        stop.value = 1
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which is this one's to handle."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Started later, it would let them through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _StoppedError(Exception):
    """The others have failed, or the user has had enough."""


_job: Job
_report: Report
_worker: Worker | None = None


def _start(job: Job, counts: Any, stop: Any) -> None:
    """Makes this process one that does units of a job."""
    global _job, _report
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(*new: int) -> None:
        if stop.value:
            raise _StoppedError
        with counts.get_lock():
            for index, value in enumerate(new):
                counts[index] += value

    _job, _report = job, report


def _do(unit: Unit, done: Sequence[Piece]) -> list[Piece]:
    global _worker
    # Opened here, what is wrong with the input reaches the other process as an error.
    if _worker is None:
        _worker = Worker(_job, _report)
    return _worker.do(unit, done)


def _end_with_parent() -> None:
    """A parent that is killed does not tell its processes; they would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
