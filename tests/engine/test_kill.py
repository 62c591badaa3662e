"""Kill -9 at random instants: nothing stored is lost, damaged or computed twice."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from bitwright.engine.digest import digest
from bitwright.engine.store import Store
from kill import run_with_kills

JOB = """
import sys, time
from pathlib import Path
import torch
from bitwright.engine.digest import digest
from bitwright.engine.jobs import run_jobs
from bitwright.engine.store import Store

def solve(store, number):
    key = digest("entry", number)
    entry = store.get(key)
    if entry is None:
        time.sleep(0.02)
        value = torch.arange(200_000).mul(number).double().sqrt()
        with Path({log!r}).open("a") as file:
            file.write(key + "\\n")
        store.put(key, {{"x": value}}, {{"number": number}})
        entry = store.get(key)
    return entry

if __name__ == "__main__":
    store = Store({store!r}, note=print)
    print("ready", flush=True)
    found = dict(run_jobs(solve, range({count}), {workers}, shared=store))
    Path({out!r}).write_text(digest([found[i] for i in range({count})]))
"""


def job(folder: Path, workers: int, count: int) -> list[str]:
    folder.mkdir()
    script = folder / "job.py"
    script.write_text(JOB.format(
        log=str(folder / "log"), store=str(folder / "store"), out=str(folder / "out"),
        workers=workers, count=count,
    ))  # fmt: skip
    return [sys.executable, str(script)]


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in (folder / "store").rglob("*.safetensors")
        if not p.name.startswith(".")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [(1, 10), (2, 4)])
def test_killed_at_random_and_resumed(tmp_path, workers, kills):
    count = 80
    plain = run_with_kills(job(tmp_path / "plain", 1, count), 0, 1.0)
    assert plain.kills == 0
    folder = tmp_path / "killed"
    stored: list[set[str]] = []
    logged: list[int] = []
    log = folder / "log"

    def before(life: int) -> None:
        stored.append({name.removesuffix(".safetensors") for name in files(folder)})
        logged.append(len(log.read_text().split()) if log.exists() else 0)

    command = job(folder, workers, count)
    ordeal = run_with_kills(command, kills, 0.6, seed=7, ready="ready", before=before)
    assert ordeal.kills == kills
    assert (folder / "out").read_text() == (tmp_path / "plain" / "out").read_text()
    assert files(folder) == files(tmp_path / "plain")
    store = Store(folder / "store")
    assert all(store.get(digest("entry", i)) is not None for i in range(count))
    assert store.counts.damaged == 0
    computed = log.read_text().split()
    for start, there in zip(logged, stored, strict=True):
        # What stood in the store when a life began is not computed again, then or later. A worker
        # of the life before may end a moment after it.
        assert len(there & set(computed[start:])) <= workers - 1
    again = sum(Counter(computed).values()) - count
    assert again <= kills * workers
