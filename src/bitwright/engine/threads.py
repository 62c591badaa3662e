"""Threads of this process for work that lets go of the interpreter's lock.

What is handed out is cut by the data alone, and each piece is computed by one thread, so that the
number of threads changes no bit. Functions that share work out need not be told how many there are:
the run says so once, around them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    pool = _POOL.get()
    if pool is None or len(items) < 2:
        return [function(item) for item in items]
    grad = torch.is_grad_enabled()

    def work(item: Item) -> Piece:
        # A thread of its own begins with gradients on, whatever its maker said.
        with torch.set_grad_enabled(grad):
            return function(item)

    return list(pool.executor.map(work, items))
