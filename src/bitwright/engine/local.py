"""Worker processes on this machine.

They are forked from a fork server that has imported the package and nothing else: a worker costs
some 20 ms after the first, where `spawn` costs an import of torch each, and it inherits no thread,
lock or OpenMP pool of the caller, where plain `fork` may wait for ever for a thread that is not
there. On systems without a safe fork (macOS) workers are spawned.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from functools import cache
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

from bitwright.engine.memory import keep_heap
from bitwright.engine.task import TaskOutcome, WorkerTask, perform
from bitwright.engine.wire import Message, decode, encode, from_file, receive, send, to_file
from bitwright.errors import WorkerError

_PATIENCE_S = 2.0


class LocalCrew:
    """Up to `size` processes, started when there is a job for them; one job in each."""

    def __init__(self, task: Message, size: int, keep_main: bool) -> None:
        self.size = size
        self._keep_main = keep_main
        self._context = _context()
        self._file = to_file(task)
        self._processes: dict[Connection, BaseProcess] = {}
        self._idle: list[Connection] = []
        self._jobs: dict[Connection, tuple[int, str]] = {}

    def give(self, index: int, name: str, item: Any) -> None:
        """Hand a job to an idle worker, or to a new one."""
        message = encode(item)
        worker = self._idle.pop() if self._idle else self._start()
        self._jobs[worker] = (index, name)
        try:
            send(worker, message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._explain_end(worker) from None

    def take(self) -> tuple[int, TaskOutcome]:
        """Wait for the next job to be done: a worker that dies closes its pipe, which wakes us."""
        worker = connection.wait(list(self._jobs))[0]
        assert isinstance(worker, Connection)
        try:
            outcome = decode(receive(worker))
        except (EOFError, ConnectionResetError):
            raise self._explain_end(worker) from None
        index, _ = self._jobs.pop(worker)
        self._idle.append(worker)
        assert isinstance(outcome, TaskOutcome)
        return index, outcome

    def close(self, finished: bool) -> None:
        """Close the pipes, which ends idle workers; the others are killed."""
        for worker in self._processes:
            worker.close()
        for process in self._processes.values():
            if finished:
                process.join(_PATIENCE_S)
            process.kill()
        for process in self._processes.values():
            process.join()
            process.close()
        self._processes.clear()
        os.close(self._file)

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe(duplex=True)
        with _hold_interrupts_back(), _hide_main(not self._keep_main):
            process = self._context.Process(
                target=_work, args=(theirs, _Handed(self._file)), name="bitwright-worker"
            )
            process.start()
            self._processes[ours] = process
        theirs.close()
        return ours

    def _explain_end(self, worker: Connection) -> WorkerError:
        process = self._processes[worker]
        process.join(_PATIENCE_S)
        code = process.exitcode
        name = self._jobs[worker][1]
        if code is not None and code < 0:
            how = f"was killed by {_signal_name(-code)}, most likely because memory ran out"
        else:
            how = f"ended with code {code}"
        return WorkerError(
            f"the worker process of {name} {how}. Run it again with --workers 1, which needs the "
            "least memory; what is stored is not computed again."
        )


class _Handed:
    """A file descriptor that travels to a starting worker."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_handle, (DupFd(self._descriptor),)


def _take_handle(handle: Any) -> int:
    return int(handle.detach())


def _context() -> ForkServerContext | SpawnContext:
    if not sys.platform.startswith("linux"):
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    # Has no effect, and does no harm, where a fork server already runs.
    context.set_forkserver_preload([__name__])
    return context


@contextlib.contextmanager
def _hold_interrupts_back() -> Iterator[None]:
    """Start processes that never see Ctrl-C: the caller does, and ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _hide_main(hide: bool) -> Iterator[None]:
    """Keep a worker from running the user's script, which it would import as its main module.

    A script need then not protect its own call by `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    if hide:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _work(caller: Connection, descriptor: int) -> None:
    """Do jobs until the caller closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    keep_heap()

    @cache
    def task() -> WorkerTask:
        ready = decode(from_file(descriptor))
        os.close(descriptor)
        ready.settings.apply()
        assert isinstance(ready, WorkerTask)
        return ready

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            send(caller, perform(task, receive(caller)))


def _end_with_the_caller() -> None:
    """Leave no orphan behind, even where the caller was killed in the middle of a job."""
    caller = parent_process()
    if caller is not None:
        connection.wait([caller.sentinel])
        os._exit(1)
