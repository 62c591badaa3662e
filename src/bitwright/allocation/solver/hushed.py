"""Keeping the solver's own notes out of what the command prints."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache

_STDOUT = 1


@cache
def _flush() -> Callable[[None], int] | None:
    """C's own fflush, where the process's symbols can be asked for it."""
    try:
        return ctypes.CDLL(None).fflush if os.name == "posix" else None
    except (OSError, AttributeError):
        return None


@contextlib.contextmanager
def hush_output() -> Iterator[None]:
    """Send the process's standard output nowhere for a while.

    HiGHS 1.12 writes a line of its own to standard output whenever it mends a rounded solution,
    with every log switched off. It does so from C, below `sys.stdout`, so the descriptor itself is
    turned, and C's buffer emptied before it is turned back. Where that cannot be done the notes are
    let through: they do no harm.
    """
    flush = _flush()
    try:
        kept = os.dup(_STDOUT)
    except OSError:
        kept = -1
    if kept < 0 or flush is None:
        yield
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    flush(None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDOUT)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)
        os.close(nowhere)
