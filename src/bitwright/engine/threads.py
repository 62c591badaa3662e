"""Threads of this process for work that lets go of the interpreter's lock.

What is handed out is cut by the data alone, and each piece is computed by one thread, so that the
number of threads changes no bit. Functions that share work out need not be told how many there are:
the run says so once, around them.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch

from bitwright.engine.task import one_thread

Item = TypeVar("Item")
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class _Pool:
    size: int
    executor: ThreadPoolExecutor


_POOL: ContextVar[_Pool | None] = ContextVar("_POOL", default=None)


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Share work between so many threads; torch computes with one in each."""
    with one_thread(), contextlib.ExitStack() as stack:
        pool = None
        if count > 1:
            executor = stack.enter_context(ThreadPoolExecutor(count, "bitwright"))
            pool = _Pool(count, executor)
        token = _POOL.set(pool)
        try:
            yield
        finally:
            _POOL.reset(token)


def count_threads() -> int:
    """How many threads there are here; one inside of a piece of work."""
    pool = _POOL.get()
    return 1 if pool is None else pool.size


def share_out(function: Callable[[Item], Piece], items: Sequence[Item]) -> list[Piece]:
    """The function of every item, in the order of the items; it draws from nothing global."""
    if len(items) < 2:
        return [function(item) for item in items]
    return list(stream_out(function, items))


def stream_out(
    function: Callable[[Item], Piece], items: Iterable[Item]
) -> Generator[Piece, None, None]:
    """The same of items that are made one by one, as many at once as there are threads."""
    pool = _POOL.get()
    if pool is None:
        for item in items:
            yield function(item)
        return
    grad = torch.is_grad_enabled()

    def work(item: Item) -> Piece:
        # A thread of its own begins with gradients on, whatever its maker said.
        with torch.set_grad_enabled(grad):
            return function(item)

    waiting: deque[Future[Piece]] = deque()
    try:
        for item in items:
            waiting.append(pool.executor.submit(work, item))
            del item
            if len(waiting) == pool.size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
