"""Many jobs at a time in processes that end with the one that started them, results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection, wait
from threading import Event, Thread
from typing import TypeVar

from audiolm_compress.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
_TOGETHER = 8  # jobs sent to a process at once, as some take less time than the sending
_AHEAD = 3  # batches that wait for each process


def in_processes(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, in order. One worker is this process itself.

    Args:
        work: a function that another process can import, or a ``functools.partial`` of one.
        jobs: are taken as they are needed.
        workers: processes.

    Raises:
        DataError: a process was ended from outside, or ``work`` raised it.
    """
    if workers == 1:
        yield from ((job, work(job)) for job in jobs)
        return
    taken = iter(jobs)
    waiting: deque[tuple[list[Job], Future[list[Result]]]] = deque()
    # Spawned, so that no process inherits the locks of another one's threads.
    context = multiprocessing.get_context("spawn")
    told, telling = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(told,))
    done = False
    try:
        while True:
            while len(waiting) < workers * _AHEAD and (batch := list(islice(taken, _TOGETHER))):
                waiting.append((batch, pool.submit(_all, work, batch)))
            if not waiting:
                done = True
                return
            batch, future = waiting.popleft()
            yield from zip(batch, future.result(), strict=True)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was ended, perhaps for want of memory; finished work is kept: "
            "give the same command with fewer --workers"
        ) from error
    finally:
        if not done:
            telling.close()  # which each process hears after the job that it is at
        pool.shutdown(wait=True, cancel_futures=True)
        telling.close()
        told.close()


_stopping = Event()


def _all(work: Callable[[Job], Result], batch: list[Job]) -> list[Result]:
    """Results of a batch; the rest of one that nobody waits for any more is left."""
    return [work(job) for job in batch if not _stopping.is_set()]


def _begin(told: Connection) -> None:
    """Leave Ctrl-C to the first process, and end when it ends: a killed one cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_listen, args=(told,), daemon=True).start()


def _listen(told: Connection) -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if parent.sentinel not in wait([parent.sentinel, told]):
        _stopping.set()
        wait([parent.sentinel])
    os._exit(1)
