"""One `bitwright` command in a process of its own: its run directory, time and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What `quantize` promises: 0 done, 1 done but a promise failed.
FINISHED = (0, 1)


@dataclass(frozen=True)
class Done:
    """A command that ended: where it wrote, its exit code, wall and processor seconds."""

    out: Path
    code: int
    seconds: float
    processor_s: float

    def read(self, name: str) -> Any:
        """A JSON file of the run directory."""
        return json.loads((self.out / name).read_text())

    @property
    def peak_mb(self) -> float:
        """The most that the process held in any stage."""
        return max(stage["peak_rss_mb"] for stage in self.read("metrics.json")["stages"])


def bitwright(out: Path, *arguments: object, threads: int = 1, quiet: bool = True) -> Done:
    """Run a command that writes to `--out`.

    Raises:
        SystemExit: it ended otherwise than promised; what it said stands above.
    """
    command = [sys.executable, "-m", "bitwright.cli", *map(str, arguments), "--out", str(out)]
    command += ["--quiet"] if quiet else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    shown = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, env=environment, stdout=shown, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in FINISHED:
        raise SystemExit(f"exit {done.returncode}: {' '.join(command)}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(out, done.returncode, seconds, used)
