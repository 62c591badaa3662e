"""Memory: what the process holds at most, and an allocator that keeps what it has."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import resource
import sys
from functools import cache
from pathlib import Path

_STATUS = Path("/proc/self/status")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2 << 30
_PAD_BYTES = 1 << 30
_MAPS = Path("/proc/self/maps")
_PAGES = Path("/proc/self/statm")
_MADV_HUGEPAGE = 14
_TRIM_ABOVE = 1 << 30


def keep_heap() -> bool:
    """Let glibc's malloc keep large blocks instead of mapping and unmapping each one.

    A forward pass allocates and frees tensors of tens of megabytes at every operator. By default
    each is a fresh mapping whose pages the kernel must clear: up to two thirds of the processor
    time of a convolutional network on a CPU (`benchmarks/guards/engine.py`). The setting has
    no effect on results. Returns whether it could be applied (glibc only).
    """
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is None:
        return False
    applied = [
        mallopt(_M_MMAP_MAX, 0),
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES),
        mallopt(_M_TOP_PAD, _PAD_BYTES),
    ]
    ask_large_pages()
    return all(applied)


def ask_large_pages() -> bool:
    """Let the kernel back the heap by pages of 2 MiB, where it has them on request.

    Clearing and finding small pages cost a tenth of a forward pass, and several tenths after
    `trim_heap`. What is asked for an address range does not extend to what the heap grows by later;
    so it is grown here, by addresses that take no memory until they are used. Returns whether the
    kernel agreed.
    """
    library, start = _library(), _heap_start()
    if library is None or not start:
        return False
    malloc, free, sbrk = library.malloc, library.free, library.sbrk
    malloc.restype = sbrk.restype = ctypes.c_void_p
    malloc.argtypes, free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    sbrk.argtypes = [ctypes.c_ssize_t]
    # With what `keep_heap` set, the break moves by so much more than is asked for.
    free(malloc(_PAD_BYTES // 2))
    end = int(sbrk(0) or 0)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return end > start and library.madvise(start, end - start, _MADV_HUGEPAGE) == 0


@cache
def _heap_start() -> int:
    """Where the break began, on a page; 0 where the system does not tell."""
    if not _MAPS.exists():
        return 0
    for line in _MAPS.read_text().splitlines():
        if line.endswith("[heap]"):
            return int(line.split("-")[0], 16)
    return 0


def trim_heap() -> None:
    """Give pages that hold nothing back to the system (glibc only).

    Kept blocks are reused, but not across sizes: between stages, and between units of different
    widths, holes add up to hundreds of megabytes. What is given back must be cleared when it is
    taken again, so a process that holds little is left alone.
    """
    if resident_bytes() < _TRIM_ABOVE:
        return
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)
        ask_large_pages()


@cache
def _library() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    name = ctypes.util.find_library("c") if sys.platform.startswith("linux") else None
    return None if name is None or "musl" in name else ctypes.CDLL(name)


def resident_bytes() -> int:
    """The memory that the process holds now; where the system does not tell, without bound."""
    if not _PAGES.exists():
        return sys.maxsize
    return int(_PAGES.read_text().split()[1]) * resource.getpagesize()


def peak_rss_mb() -> float:
    """The most resident memory since the start of the process or the last `reset_peak`."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    divisor = 1024 if sys.platform.startswith("linux") else 1024 * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor


def reset_peak() -> None:
    """Begin a new peak, where the kernel lets a process do so (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
