"""The heap: kept between operators, in large pages where there are any, given back at need."""

from __future__ import annotations

import platform
import subprocess
import sys
from itertools import dropwhile
from pathlib import Path

import pytest

from bitwright.engine import memory

GLIBC = platform.libc_ver()[0] == "glibc"
LINUX = sys.platform.startswith("linux")
PROGRAM = """
import torch
from bitwright.engine import memory
assert memory.keep_heap() is {kept}
before = memory.resident_bytes()
held = [torch.ones(1 << 22) for _ in range(96)]
whole = memory.resident_bytes()
assert whole - before > 1400 << 20, (before, whole)
del held[::2]
memory.trim_heap()
left = memory.resident_bytes()
assert whole - left > 600 << 20, (whole, left)
assert all(bool((t == 1).all()) for t in held)
memory._TRIM_ABOVE = left + (1 << 30)
del held[::2]
memory.trim_heap()
assert left - memory.resident_bytes() < 200 << 20
print(memory.peak_rss_mb() * 2**20 >= 0.9 * whole)
"""


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_holes_are_given_back_where_much_is_held():
    program = PROGRAM.format(kept=GLIBC)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


@pytest.mark.skipif(not (LINUX and GLIBC), reason="madvise on the heap of glibc")
def test_large_pages_are_asked_for_the_whole_heap():
    answer = memory.ask_large_pages()
    assert answer in (True, False)
    if not answer:
        pytest.skip("the kernel has no large pages on request")
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    heap = dropwhile(lambda line: not line.endswith("[heap]"), lines)
    assert " hg" in next(line for line in heap if line.startswith("VmFlags:"))


def test_without_a_record_of_the_heap_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(memory, "_heap_start", lambda: 0)
    assert memory.ask_large_pages() is False
